"""Step-DPO on one GPU: token trees under FlexAttention against padded pairs and TRL's DPOTrainer.

    python -m benchmarks.gpu_train                    (benchmarks/gpu_session.sh train)
    python -m benchmarks.gpu_train --device cpu       (a small model, to see that all sides work)

Needs PyTorch (with a compiler for FlexAttention), transformers and, for its side, TRL. The pairs are
made up: problems of 100 tokens, steps of 40, a pair at every step; a random Llama in bfloat16. All sides
make an AdamW step on the DPO loss of all pairs (reference: zero; TRL has its own, not timed). The padded
side sorts by length
and scores the completions' positions only; TRL is benchmarks/trl_side.py at the best of some micro-batch
sizes. Before it, a small model in float32 must give the same log-probabilities and
gradients by trees and by padding. On CUDA a profile of the trees' pass is stored beside the result.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.common import RESULTS, facts, matmul_rate, ratios, spread, store
from benchmarks.trl_side import Pair, Trl
from psr_ray.training.attention import register_attention
from psr_ray.training.logprobs import PackScorer
from psr_ray.training.microbatches import fill
from psr_ray.training.packs import pack_trees
from psr_ray.training.trees import TokenTree, token_tree

Path_ = tuple[list[int], list[int]]
PROBLEM, STEP, VOCABULARY = 100, 40, 32000
TOLERANCE = 1e-4
LR, BETA = 1e-6, 0.1
DEVICE = torch.device("cuda")


def search(num_steps: int, rng: random.Random) -> list[Path_]:
    """The (prompt, completion) paths of a search: chosen and rejected at each step."""
    prompt = [rng.randrange(VOCABULARY) for _ in range(PROBLEM)]
    paths = []
    for _ in range(num_steps):
        chosen, rejected = ([rng.randrange(VOCABULARY) for _ in range(STEP)] for _ in range(2))
        paths += [(prompt, chosen), (prompt, rejected)]
        prompt = prompt + chosen
    return paths


def new_model(attention: str, *, small: bool = False) -> LlamaForCausalLM:
    """A random Llama of 1.1B parameters in bfloat16, or a small one in float32."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512 if small else 2048,
        intermediate_size=1408 if small else 5632,
        num_hidden_layers=4 if small else 22,
        num_attention_heads=8 if small else 32,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        attn_implementation=attention,
    )
    return LlamaForCausalLM(config).to(DEVICE, torch.float32 if small else torch.bfloat16)


def exactness() -> dict[str, float]:
    """Relative differences in float32: the largest of log-probabilities, that of the gradient."""
    rng = random.Random(0)
    searches = [search(num_steps, rng) for num_steps in (1, 4, 8)]
    scorer = PackScorer(new_model(register_attention(), small=True))
    plain = new_model("sdpa", small=True)
    logps = tree_pass(scorer, [token_tree(paths) for paths in searches])
    alone = torch.cat([padded_pass(plain, [path]) for paths in searches for path in paths])
    logps.mean().backward()
    alone.mean().backward()
    gradients, others = (
        torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        for model in (scorer, plain)
    )
    found = {
        "logps": ((logps - alone).abs() / alone.abs()).max().item(),
        "gradient": ((gradients - others).norm() / others.norm()).item(),
    }
    if max(found.values()) > TOLERANCE:
        raise SystemExit(f"packed and plain passes differ in float32: {found}, bound {TOLERANCE}")
    return found


def tree_pass(scorer: PackScorer, trees: list[TokenTree]) -> torch.Tensor:
    """Log-probabilities of all completions of some trees."""
    return scorer(pack_trees(trees, DEVICE))


def dpo_loss(logps_C: torch.Tensor) -> torch.Tensor:
    """Sum of the DPO losses of pairs of completions, chosen then rejected, with a reference of zero."""
    chosen_B, rejected_B = logps_C.float().view(-1, 2).unbind(1)
    return -F.logsigmoid(BETA * (chosen_B - rejected_B)).sum()


def padded_pass(model: LlamaForCausalLM, paths: list[Path_]) -> torch.Tensor:
    """The same, in rows padded on the right; logits for the completions' positions alone."""
    length = max(len(prompt) + len(completion) for prompt, completion in paths)
    ids = torch.zeros(len(paths), length, dtype=torch.long)
    scored = torch.zeros(len(paths), length, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(paths):
        end = len(prompt) + len(completion)
        ids[row, :end] = torch.tensor(prompt + completion)
        scored[row, len(prompt) : end] = True
    ids, scored = ids.to(DEVICE), scored.to(DEVICE)
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    logits = model.lm_head(hidden[scored[:, 1:]]).float()
    logps = -torch.nn.functional.cross_entropy(logits, ids[scored], reduction="none")
    rows = scored.nonzero()[:, 0]
    return logps.new_zeros(len(paths)).index_add(0, rows, logps)


def synchronize() -> None:
    """Until the device has done what it was given."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def timed(work: Callable[[], float | None]) -> tuple[float, float]:
    """Seconds (those that the work itself returns, where it does), and GiB at the peak beyond what was
    there before."""
    on_gpu = DEVICE.type == "cuda"
    before = torch.cuda.memory_allocated() if on_gpu else 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    synchronize()
    started = time.perf_counter()
    seconds = work()
    synchronize()
    peak = torch.cuda.max_memory_allocated() if on_gpu else 0
    spent = time.perf_counter() - started if seconds is None else seconds
    return spent, (peak - before) / 2**30


class Step:
    """An optimizer step of ours: the passes, then AdamW."""

    def __init__(self, model: torch.nn.Module, passes: Callable[[], None]) -> None:
        self.model, self.passes = model, passes
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=LR)

    def __call__(self) -> None:
        self.passes()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def batches_of(paths: list[Path_], budget: int) -> list[list[Path_]]:
    """Rows of whole pairs for passes of so many tokens, padding included, sorted by length."""
    pairs = sorted(zip(paths[::2], paths[1::2], strict=True), key=lambda pair: len(pair[0][0]))
    batches, batch = [], list[Path_]()
    for pair in pairs:
        length = sum(map(len, pair[0]))
        if batch and (len(batch) + 2) * length > budget:
            batches.append(batch)
            batch = []
        batch = [*batch, *pair]
    return [*batches, batch]


def best_trl(searches: list[list[Path_]], small: bool, folder: Path) -> tuple[Trl, int]:
    """TRL's side at the micro-batch size of those tried that is fastest, and that size."""
    pairs = [
        Pair(prompt, chosen, rejected)
        for paths in searches
        for (prompt, chosen), (_, rejected) in zip(paths[::2], paths[1::2], strict=True)
    ]
    sides = {}
    sizes = [size for size in ((4,) if small else (8, 16, 32)) if len(pairs) % size == 0]
    for micro in sizes or [1]:
        model, batch = new_model("sdpa", small=small), len(pairs)
        sides[micro] = Trl(model, pairs, folder, batch=batch, micro=micro, lr=LR, beta=BETA)
    seconds = {micro: min(side.epoch(), side.epoch()) for micro, side in sides.items()}
    best = min(seconds, key=lambda micro: seconds[micro])
    print(f"TRL by micro-batch size: {seconds}", flush=True)
    return sides[best], best


def compare(
    num_steps: int, num_searches: int, num_repeats: int, budget: int, small: bool, folder: Path
) -> dict[str, object]:
    """One length of search: equality of the log-probabilities, then all sides in turn."""
    rng = random.Random(num_steps)
    searches = [search(num_steps, rng) for _ in range(num_searches)]
    trees = [token_tree(paths) for paths in searches]
    num_pairs = num_searches * num_steps
    batches = batches_of([path for paths in searches for path in paths], budget)
    scorer = PackScorer(new_model(register_attention(), small=small))
    plain = new_model("sdpa", small=small)
    with torch.no_grad():
        packed = tree_pass(scorer, trees[:1])
        alone = padded_pass(plain, searches[0])
    difference = ((packed - alone).abs() / STEP).max().item()

    def with_trees() -> None:
        made = [token_tree(paths) for paths in searches]
        for group in fill([len(tree) for tree in made], budget):
            (dpo_loss(tree_pass(scorer, [made[i] for i in group])) / num_pairs).backward()

    def with_padding() -> None:
        for rows in batches:
            (dpo_loss(padded_pass(plain, rows)) / num_pairs).backward()

    trl, micro = best_trl(searches, small, folder)
    sides: dict[str, Callable[[], float | None]] = {
        "trees": Step(scorer, with_trees),
        "padded": Step(plain, with_padding),
        "trl": trl.epoch,
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peaks: dict[str, float] = {}
    for repeat in range(num_repeats + 2):  # two to compile and warm up
        for name, side in sides.items():
            spent, peaks[name] = timed(side)
            if repeat > 1:
                seconds[name].append(spent)
        print(f"{num_steps} steps, repeat {repeat}: {seconds}", flush=True)
    if DEVICE.type == "cuda" and num_steps == 8:
        profile(sides["trees"])
    size, dtype = (1024, torch.float32) if small else (8192, torch.bfloat16)
    rate = matmul_rate(dtype, DEVICE.type, size)
    parameters = sum(p.numel() for p in plain.parameters())
    tokens = {
        "trees": sum(len(tree) for tree in trees),
        "padded": sum(len(b) * max(len(p) + len(c) for p, c in b) for b in batches),
        "trl": trl.num_tokens,
    }
    return {
        "num_pairs": num_pairs,
        "logp_difference_per_token": round(difference, 5),
        "tokens": tokens,
        "token_ratio": round(tokens["padded"] / tokens["trees"], 3),
        "trl_micro_batch_size": micro,
        "pairs_per_s": {n: spread([num_pairs / s for s in v]) for n, v in seconds.items()},
        "share_of_matmul_rate": {
            name: spread([6 * parameters * tokens[name] / s / rate for s in values])
            for name, values in seconds.items()
        },
        "peak_gib": {name: round(value, 2) for name, value in peaks.items()},
        "ratio": ratios(seconds["padded"], seconds["trees"]),
        "ratio_to_trl": ratios(seconds["trl"], seconds["trees"]),
    }


def profile(step: Callable[[], float | None]) -> None:
    """Store where the GPU's time of a step goes."""
    from torch.profiler import ProfilerActivity

    with torch.profiler.profile(
        activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]
    ) as profiled:
        step()
        synchronize()
    table = profiled.key_averages().table(sort_by="self_cuda_time_total", row_limit=30)
    (RESULTS / "gpu_train.profile.txt").write_text(table)


def main() -> None:
    """Measure and write a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--searches", type=int, default=16)
    parser.add_argument("--budget", type=int, default=16384)
    parser.add_argument("--steps", type=int, nargs="+", default=(4, 8, 16))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments = parser.parse_args()
    global DEVICE
    DEVICE = torch.device(arguments.device)
    small = arguments.device == "cpu"
    exact = exactness()
    print(f"float32: {exact}")
    with tempfile.TemporaryDirectory() as folder:
        sizes = (arguments.searches, arguments.repeats, arguments.budget, small, Path(folder))
        found = {str(n): compare(n, *sizes) for n in arguments.steps}
    if small:
        print(f"on CPU nothing is stored: {found}")
        return
    result = {
        "metric": "pairs/s of DPO steps, trees with FlexAttention over padded SDPA, 8 steps",
        "ratio": found.get("8", next(iter(found.values())))["ratio"],
        "float32_relative_difference": exact,
        "by_steps": found,
        "gpu": torch.cuda.get_device_name(),
        **facts("torch", "transformers", "trl"),
    }
    print(f"stored: {store('gpu_train', result)}")


if __name__ == "__main__":
    main()
