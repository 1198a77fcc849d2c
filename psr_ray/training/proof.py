"""The proof of a training's weights: what engines must answer (``psr_ray.inference.weights``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from psr_ray.inference.weights import PROOF_FILE, Proof
from psr_ray.storage.files import write_text
from psr_ray.training.job import Worker
from psr_ray.training.microbatches import PackedTree
from psr_ray.training.packs import pack_trees

# Trees of the first batch that are scored, the smallest ones.
NUM_TREES = 4


@torch.no_grad()
def write_proof(engine: Any, trees: Sequence[PackedTree], folder: Path, worker: Worker) -> None:
    """Score some completions under the final weights; rank 0 writes them to a file."""
    smallest = sorted((packed.tree for packed in trees), key=len)[:NUM_TREES]
    engine.eval()
    logps_C = engine(pack_trees(smallest, worker.device))
    engine.train()
    if worker.rank == 0:
        paths = [path for tree in smallest for path in tree.paths()]
        prompts, completions = ([list(ids) for ids in part] for part in zip(*paths, strict=True))
        proof = Proof(prompts, completions, logps_C.double().tolist())
        write_text(folder / PROOF_FILE, json.dumps(asdict(proof)))
