"""Step-DPO on pairs of real searches: token trees against TRL's DPOTrainer and plain pairs.

    python -m benchmarks.train               (make bench-train; about a quarter of an hour on two cores)

All three sides train the same random Llama on the same pairs, in float32, with AdamW, the same number of
pairs an optimizer step and the same threads, in one process, taking turns. Reference log-probabilities
are computed beforehand on all sides and not timed. TRL (benchmarks/trl_side.py) runs at the best
micro-batch size of those tried.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import psutil
import pyarrow.parquet as pq
import torch
import typer
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.common import alternate, facts, matmul_rate, ratios, spread, store
from benchmarks.trl_side import Pair, Trl
from psr_ray.config import DPOConfig
from psr_ray.training.attention import register_attention
from psr_ray.training.examples import PreferenceExample, batches_by_search, preference_example
from psr_ray.training.logprobs import PackScorer
from psr_ray.training.losses import dpo_term
from psr_ray.training.microbatches import fill, microbatches_of, pair_tree, pair_trees
from psr_ray.training.packs import pack_trees
from psr_ray.training.trees import TokenTree, token_tree

DATA = Path(__file__).resolve().parent / "data"
BATCH = 32
SETTINGS = DPOConfig(lr=1e-6, beta=0.1, batch_size=BATCH, use_gpu=False)
VOCABULARY = 4096
BUDGET = 4096


def new_model() -> LlamaForCausalLM:
    """A Llama of 28M parameters, the head as large a part of it as in a 7B model."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=512,
            intermediate_size=1408,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=8,
            max_position_embeddings=4096,
        )
    )


def pairs_of(num_steps: int, num: int) -> list[PreferenceExample]:
    """The first ``num`` stored pairs of searches of so many steps."""
    rows = pq.read_table(DATA / f"pairs-{num_steps}.parquet").to_pylist()
    if len(rows) < num or num % BATCH:
        raise typer.BadParameter(f"pairs: a multiple of {BATCH}, at most {len(rows)}")
    return [preference_example(row) for row in rows[:num]]


class Ours:
    """Our own loop without DeepSpeed and Ray: the packed forward pass, the loss, AdamW."""

    def __init__(self, pairs: list[PreferenceExample], budget: int, *, trees: bool) -> None:
        self.pairs, self.budget, self.trees = pairs, budget, trees
        causal = new_model()
        causal.set_attn_implementation(register_attention())
        self.scorer = PackScorer(causal)
        self.optimizer = torch.optim.AdamW(causal.parameters(), lr=SETTINGS.lr)
        self.plan = batches_by_search(pairs, 1, BATCH, seed=0)
        reference = torch.zeros(2, len(pairs))
        self.term = dpo_term(pairs, self.plan, SETTINGS, reference)
        self.num_tokens = 0

    def passes(self, indices: list[int]) -> list[tuple[list[TokenTree], list[int]]]:
        """Trees and rows of each forward pass: a tree for a search, or two sequences for a pair."""
        if self.trees:
            units = pair_trees(self.pairs, indices, self.budget)
            parts = microbatches_of(units, 0, 1, self.budget)
            return [([packed.tree for packed in part.trees], part.rows) for part in parts]
        single = {i: [token_tree([p]) for p in pair_tree([self.pairs[i]]).paths()] for i in indices}
        sizes = [sum(map(len, single[i])) for i in indices]
        groups = [[indices[g] for g in group] for group in fill(sizes, self.budget)]
        return [([tree for i in group for tree in single[i]], group) for group in groups]

    def epoch(self) -> float:
        """Seconds of one pass over the pairs."""
        started, self.num_tokens = time.perf_counter(), 0
        for indices in self.plan:
            for trees, rows in self.passes(indices):
                pack = pack_trees(trees)
                self.num_tokens += len(pack.ids_S)
                logps_C = self.scorer(pack)
                loss, _ = self.term.score(rows, logps_C, pack.lengths_C, float(len(indices)))
                loss.backward()
            torch.nn.utils.clip_grad_norm_(self.scorer.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return time.perf_counter() - started


def theirs(pairs: list[PreferenceExample], micro: int, folder: Path) -> Trl:
    """TRL's side, at a micro-batch size."""
    rows = [Pair(pair.prompt_ids, pair.chosen_ids, pair.rejected_ids) for pair in pairs]
    learning = {"lr": SETTINGS.lr, "beta": SETTINGS.beta}
    return Trl(new_model(), rows, folder, batch=BATCH, micro=micro, **learning)


def compare(num_steps: int, num_repeats: int, folder: Path, num_pairs: int) -> dict[str, Any]:
    """One length of search: all sides in turn."""
    pairs = pairs_of(num_steps, num_pairs)
    micros = {micro: theirs(pairs, micro, folder) for micro in (1, 4, 8)}
    tried = {micro: side.epoch() for micro, side in micros.items()}  # warm: the reference was made
    best = min(tried, key=lambda micro: tried[micro])
    print(f"{num_steps} steps, {len(pairs)} pairs; TRL by micro-batch size: {tried}")
    trl = micros[best]
    trees, plain = (Ours(pairs, BUDGET, trees=trees) for trees in (True, False))
    sides: dict[str, Callable[[], float]] = {
        "trl": trl.epoch,
        "plain": plain.epoch,
        "trees": trees.epoch,
    }
    seconds = alternate(sides, num_repeats)
    rate = matmul_rate(torch.float32)
    parameters = sum(p.numel() for p in trees.scorer.parameters())
    tokens = {"trl": trl.num_tokens, "plain": plain.num_tokens, "trees": trees.num_tokens}
    return {
        "num_searches": len({pair.search for pair in pairs}),
        "num_pairs": len(pairs),
        "trl_micro_batch_size": best,
        "tokens": tokens,
        "token_ratio": round(tokens["trl"] / tokens["trees"], 3),
        "pairs_per_s": {n: spread([len(pairs) / s for s in v]) for n, v in seconds.items()},
        "ratio": ratios(seconds["trl"], seconds["trees"]),
        "ratio_to_plain": ratios(seconds["plain"], seconds["trees"]),
        "peak_mb": {name: peak_mb(name, num_steps, num_pairs) for name in sides},
        "share_of_matmul_rate": {
            name: spread([6 * parameters * tokens[name] / s / rate for s in values])
            for name, values in seconds.items()
        },
    }


def peak_mb(side: str, num_steps: int, num_pairs: int) -> float:
    """Memory that an epoch of one side takes at its peak beyond model and data, in a process of its
    own."""
    command = [sys.executable, "-m", "benchmarks.train", "--peak-of", side]
    command += ["--steps", str(num_steps), "--num-pairs", str(num_pairs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_peak(side: str, num_steps: int, num_pairs: int) -> None:
    """The output that ``peak_mb`` reads."""
    pairs = pairs_of(num_steps, num_pairs)
    with tempfile.TemporaryDirectory() as folder:
        if side == "trl":
            epoch = theirs(pairs, 4, Path(folder)).epoch
        else:
            epoch = Ours(pairs, BUDGET, trees=side == "trees").epoch
        before = psutil.Process().memory_info().rss
        epoch()
    # not getrusage's figure, which begins with the parent's
    [most] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(round((int(most) * 1024 - before) / 1e6, 1))


def main(
    num_repeats: Annotated[int, typer.Option(min=1)] = 5,
    num_pairs: Annotated[int, typer.Option(help="pairs of each length of search")] = 32,
    steps: Annotated[list[int] | None, typer.Option(help="steps of the searches")] = None,
    peak_of: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Measure and store benchmarks/results/train.json."""
    torch.set_num_threads(2)
    if peak_of:
        print_peak(peak_of, (steps or [8])[0], num_pairs)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = {
            str(n): compare(n, num_repeats, Path(folder), num_pairs) for n in steps or [4, 8, 16]
        }
    result = {
        "metric": "pairs/s of step-DPO, token trees over TRL's DPOTrainer, at 8 steps",
        "ratio": found.get("8", next(iter(found.values())))["ratio"],
        "num_repeats": num_repeats,
        "model_parameters": sum(p.numel() for p in new_model().parameters()),
        "by_steps": found,
        **facts("torch", "transformers", "trl", "accelerate"),
    }
    print(f"stored: {store('train', result)}")


if __name__ == "__main__":
    typer.run(main)
