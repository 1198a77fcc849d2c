"""The reference's log-probabilities: computed once, stored beside the pairs, refused when in doubt.

They come from the same packed forward pass as the policy's. A store carries a content key of the model
and of every token it was made from; one with another key, other rows or a missing value is an error.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from psr_ray.errors import PsrError
from psr_ray.runs import fingerprint
from psr_ray.storage.files import write_table
from psr_ray.storage.locations import local_copy
from psr_ray.training.examples import PreferenceExample
from psr_ray.training.job import TrainingJob, Worker
from psr_ray.training.microbatches import PackedTree, microbatches_of, pair_trees
from psr_ray.training.packs import pack_trees
from psr_ray.training.trees import token_tree

FOLDER = "reference"
# Nats a token by which a packed and a single forward pass may differ.
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.2}
NAMES = ("chosen_logp", "rejected_logp")


def reference_key(model: str, weights: str, pairs: Sequence[PreferenceExample]) -> str:
    """Content key: the model's fingerprint, how its weights are held (float32, nf4), all pairs' ids."""
    digest = hashlib.sha256(f"{model}/{weights}".encode())
    for pair in pairs:
        digest.update(repr((pair.id, pair.prompt_ids, pair.chosen_ids, pair.rejected_ids)).encode())
    return digest.hexdigest()


def write_reference(
    folder: Path, key: str, pairs: Sequence[PreferenceExample], table: torch.Tensor
) -> Path:
    """Store [2, N] log-probabilities; the file appears only when it is whole."""
    path = folder / f"{key[:16]}.parquet"
    columns = {"id": [pair.id for pair in pairs], "key": [key] * len(pairs)}
    rows = columns | dict(zip(NAMES, table.tolist(), strict=True))
    write_table(path, pa.table(rows))
    return path


def read_reference(
    folder: Path, key: str, pairs: Sequence[PreferenceExample]
) -> torch.Tensor | None:
    """The stored [2, N] log-probabilities; None where there are none.

    Raises ``PsrError`` where a store is of other pairs or another model, or not whole.
    """
    path = folder / f"{key[:16]}.parquet"
    if not path.exists():
        return None
    remedy = f"delete {path} to have it computed again"
    try:
        with path.open("rb") as file:
            rows = pq.read_table(file).to_pydict()
    except (OSError, pa.ArrowInvalid) as error:
        raise PsrError(f"reference log-probabilities cannot be read: {error}; {remedy}") from error
    if set(rows.get("key", ())) != {key} or rows.get("id") != [pair.id for pair in pairs]:
        raise PsrError(f"reference log-probabilities of other pairs or another model; {remedy}")
    table = torch.tensor([rows[name] for name in NAMES], dtype=torch.float64)
    if not bool(table.isfinite().all()):
        raise PsrError(f"reference log-probabilities with missing values; {remedy}")
    return table


@torch.no_grad()
def check_packing(
    engine: Any, trees: Sequence[PackedTree], tolerance: float, device: torch.device
) -> None:
    """Score the two smallest trees in one pack, and each of their completions plainly, by the model's
    own logits. Where the two differ by more than ``tolerance`` nats a token, the model does not go with
    packs: its attention does not follow trees, or it changes its logits on the way out.

    Raises ``PsrError`` with what was seen.
    """
    smallest = sorted((packed.tree for packed in trees), key=len)[:2]
    engine.eval()
    pack = pack_trees(smallest, device)
    packed_C = engine(pack)
    alone_C = torch.cat(
        [
            engine(pack_trees([token_tree([path])], device), plainly=True)
            for tree in smallest
            for path in tree.paths()
        ]
    )
    engine.train()
    difference = float(((packed_C - alone_C).abs() / pack.lengths_C).max())
    if not difference <= tolerance:
        raise PsrError(
            f"packed and plain log-probabilities differ by {difference:.2g} nats a token: this model "
            "does not go with token trees (its forward must pass its arguments on to transformers' "
            "attention interface and its logits must come straight from the output head, as those of "
            "Llama, Qwen2 and their like do)"
        )


@torch.no_grad()
def reference_logps(
    engine: Any, pairs: Sequence[PreferenceExample], worker: Worker, budget: int
) -> torch.Tensor:
    """Log-probabilities [2, N] of all chosen and rejected steps under the current weights.

    Every worker scores its share, then all gather the result; NaN marks a missing value.
    """
    engine.eval()
    table = torch.full((2, len(pairs)), math.nan, dtype=torch.float64)
    trees = pair_trees(pairs, range(len(pairs)), budget)
    for batch in microbatches_of(trees, worker.rank, worker.num_workers, budget):
        pack = pack_trees([packed.tree for packed in batch.trees], worker.device)
        logps_C = engine(pack)
        if not batch.is_padding:
            table[:, batch.rows] = logps_C.view(-1, 2).T.double().cpu()
    for other in worker.gather(table):
        table = torch.where(table.isnan(), other, table)
    if bool(table.isnan().any()):
        raise PsrError("reference log-probabilities are incomplete or NaN: the model is broken")
    engine.train()
    return table


def reference_of(
    job: TrainingJob, engine: Any, pairs: Sequence[PreferenceExample], worker: Worker
) -> torch.Tensor:
    """The reference's log-probabilities: stored ones of this very model and these very pairs, or
    computed and stored."""
    assert job.preferences is not None
    lora = job.training.lora
    weights = job.config.model.dtype if lora is None or not lora.four_bit else "nf4"
    folder, key, stored = job.preferences / FOLDER, "", None
    if worker.rank == 0:
        model = local_copy(job.model)  # which this training has loaded
        key = reference_key(fingerprint(model), weights, pairs)
        stored = read_reference(folder, key, pairs)
    table: torch.Tensor | None = worker.from_first(stored)
    if table is None:
        table = reference_logps(engine, pairs, worker, job.training.tokens_per_pass)
        if worker.rank == 0:
            write_reference(folder, key, pairs, table)
    return table


# Pairs by which a training is measured, at most: a mean's standard error is below 5 % of its spread.
MAX_MEASURED = 512


def changes_of(
    engine: Any,
    pairs: Sequence[PreferenceExample],
    reference: torch.Tensor,
    worker: Worker,
    budget: int,
) -> dict[str, float]:
    """Change of the pairs' log-probabilities by training, under its final weights: means over all pairs,
    or ``MAX_MEASURED`` evenly spaced ones. ``reference`` [2, N] is of all pairs.

    A step's own metrics are of one batch before its update, so the last ones are noisy."""
    step = max(1, math.ceil(len(pairs) / MAX_MEASURED))
    after = reference_logps(engine, pairs[::step], worker, budget)
    chosen, rejected = after - reference[:, ::step].to(after)
    return {
        "num_measured_pairs": len(chosen),
        "chosen_logp_change": float(chosen.mean()),
        "rejected_logp_change": float(rejected.mean()),
        "accuracy": float((chosen > rejected).double().mean()),
    }
