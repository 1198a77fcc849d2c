"""Step-DPO on one CUDA GPU: token trees under FlexAttention against padded pairs under SDPA.

    python -m benchmarks.gpu_train

Needs PyTorch (with a compiler for FlexAttention) and transformers, nothing else. The pairs are made up:
problems of 100 tokens, steps of 40, a pair at every step; the model is a random Llama in bfloat16. Both
sides make the same forward and backward passes of the same log-probabilities; the padded side sorts by
length and scores the completions' positions only. Before it, a small model in float32 must give the same
log-probabilities and gradients on both sides.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.common import facts, matmul_rate, ratios, spread, store
from psr_ray.training.attention import register_attention
from psr_ray.training.logprobs import PackScorer
from psr_ray.training.microbatches import fill
from psr_ray.training.packs import pack_trees
from psr_ray.training.trees import TokenTree, token_tree

Path_ = tuple[list[int], list[int]]
PROBLEM, STEP, VOCABULARY = 100, 40, 32000
TOLERANCE = 1e-4


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
    return LlamaForCausalLM(config).to("cuda", torch.float32 if small else torch.bfloat16)


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
        torch.cat([p.grad.flatten() for p in model.parameters()]) for model in (scorer, plain)
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
    return scorer(pack_trees(trees, torch.device("cuda")))


def padded_pass(model: LlamaForCausalLM, paths: list[Path_]) -> torch.Tensor:
    """The same, in rows padded on the right; logits for the completions' positions alone."""
    length = max(len(prompt) + len(completion) for prompt, completion in paths)
    ids = torch.zeros(len(paths), length, dtype=torch.long)
    scored = torch.zeros(len(paths), length, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(paths):
        end = len(prompt) + len(completion)
        ids[row, :end] = torch.tensor(prompt + completion)
        scored[row, len(prompt) : end] = True
    ids, scored = ids.cuda(), scored.cuda()
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    logits = model.lm_head(hidden[scored[:, 1:]]).float()
    logps = -torch.nn.functional.cross_entropy(logits, ids[scored], reduction="none")
    rows = scored.nonzero()[:, 0]
    return logps.new_zeros(len(paths)).index_add(0, rows, logps)


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds, and GiB at the peak beyond what was there before."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started, (torch.cuda.max_memory_allocated() - before) / 2**30


def compare(num_steps: int, num_searches: int, num_repeats: int, budget: int) -> dict[str, object]:
    """One length of search: equality of the log-probabilities, then both sides in turn."""
    rng = random.Random(num_steps)
    searches = [search(num_steps, rng) for _ in range(num_searches)]
    trees = [token_tree(paths) for paths in searches]
    rows = sorted((path for paths in searches for path in paths), key=lambda path: len(path[0]))
    batches, batch = [], []
    for path in rows:
        if batch and (len(batch) + 1) * (len(path[0]) + len(path[1])) > budget:
            batches.append(batch)
            batch = []
        batch.append(path)
    batches.append(batch)

    scorer, plain = PackScorer(new_model(register_attention())), new_model("sdpa")
    with torch.no_grad():
        packed = tree_pass(scorer, trees[:1])
        alone = padded_pass(plain, searches[0])
    difference = ((packed - alone).abs() / STEP).max().item()

    def with_trees() -> None:
        scorer.zero_grad(set_to_none=False)
        made = [token_tree(paths) for paths in searches]
        for group in fill([len(tree) for tree in made], budget):
            tree_pass(scorer, [made[i] for i in group]).mean().backward()

    def with_padding() -> None:
        plain.zero_grad(set_to_none=False)
        for rows in batches:
            padded_pass(plain, rows).mean().backward()

    sides = {"trees": with_trees, "padded": with_padding}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peaks: dict[str, float] = {}
    for repeat in range(num_repeats + 2):  # two to compile and warm up
        for name, side in sides.items():
            spent, peaks[name] = timed(side)
            if repeat > 1:
                seconds[name].append(spent)
        print(f"{num_steps} steps, repeat {repeat}: {seconds}", flush=True)
    num_pairs = len(rows) // 2
    rate = matmul_rate(torch.bfloat16, "cuda", 8192)
    parameters = sum(p.numel() for p in plain.parameters())
    tokens = {
        "trees": sum(len(tree) for tree in trees),
        "padded": sum(len(b) * max(len(p) + len(c) for p, c in b) for b in batches),
    }
    return {
        "num_pairs": num_pairs,
        "logp_difference_per_token": round(difference, 5),
        "tokens": tokens,
        "token_ratio": round(tokens["padded"] / tokens["trees"], 3),
        "pairs_per_s": {n: spread([num_pairs / s for s in v]) for n, v in seconds.items()},
        "share_of_matmul_rate": {
            name: spread([6 * parameters * tokens[name] / s / rate for s in values])
            for name, values in seconds.items()
        },
        "peak_gib": {name: round(value, 2) for name, value in peaks.items()},
        "ratio": ratios(seconds["padded"], seconds["trees"]),
    }


def main() -> None:
    """Measure and write a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--searches", type=int, default=16)
    parser.add_argument("--budget", type=int, default=16384)
    arguments = parser.parse_args()
    exact = exactness()
    print(f"float32: {exact}")
    found = {
        str(n): compare(n, arguments.searches, arguments.repeats, arguments.budget)
        for n in (4, 8, 16)
    }
    result = {
        "metric": "pairs/s of forward and backward, trees with FlexAttention over padded SDPA, 8 steps",
        "ratio": found["8"]["ratio"],
        "float32_relative_difference": exact,
        "by_steps": found,
        "gpu": torch.cuda.get_device_name(),
        **facts("torch", "transformers"),
    }
    print(f"stored: {store('gpu_train', result)}")


if __name__ == "__main__":
    main()
