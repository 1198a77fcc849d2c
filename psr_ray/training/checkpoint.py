"""Checkpoints of a training: DeepSpeed's, the newest one kept, read without running code."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psr_ray.config import TrainingConfig
from psr_ray.errors import PsrError
from psr_ray.runs import CHECKPOINTS
from psr_ray.storage.files import read_json, write_text
from psr_ray.storage.locations import folder_to_write, is_remote, local_copy, remove
from psr_ray.training.deepspeed_internals import read_tensors_only
from psr_ray.training.job import LATEST, Worker
from psr_ray.training.losses import LossTerm


class Checkpoints:
    """The newest checkpoint of a training, in its stage's folder; the driver removes it in the end.

    A checkpoint is complete when ``latest.json`` names it; anything else was left by a process that died
    while writing, and is removed with the next one.
    """

    def __init__(
        self,
        out: Path,
        engine: Any,
        training: TrainingConfig,
        worker: Worker,
        terms: Sequence[LossTerm],
    ) -> None:
        """Checkpoints of a training on these ``terms``, in the folder ``out``."""
        self.folder = out / CHECKPOINTS
        self.engine, self.worker = engine, worker
        self.only_update = training.lora is not None  # the weights below it are the model's
        read_tensors_only(engine)
        plans = [[[row.id for row in term.rows], term.plan] for term in terms]
        # a checkpoint's shards and steps depend on these
        self.basis = {
            "num_workers": worker.num_workers,
            "zero_stage": training.zero_stage,
            "batches": hashlib.sha256(json.dumps(plans).encode()).hexdigest()[:16],
        }

    def restore(self) -> int:
        """Load the newest checkpoint; returns the number of steps that are done, 0 without one.

        Raises ``PsrError`` where it was written by other workers than these, or on other batches."""
        latest = self.worker.from_first(read_json(self.folder / LATEST))
        if latest is None:
            return 0
        changes = [
            f"{name} {latest.get(name)}, now {value}"
            for name, value in self.basis.items()
            if latest.get(name) != value
        ]
        if changes:
            raise PsrError(
                f"{self.folder}: the checkpoint after step {latest['step']} is of another training "
                f"({'; '.join(changes)}); set back what changed, or delete the folder to start over"
            )
        folder = self.folder / f"step-{latest['step']}"
        here = Path(local_copy(folder))
        self.engine.load_checkpoint(
            str(here.parent), tag=here.name, load_module_strict=not self.only_update
        )
        if is_remote(folder):  # several times the model's size
            self.worker.wait()
            shutil.rmtree(here, ignore_errors=True)
        return int(latest["step"])

    def save(self, step: int) -> None:
        """Save the state after ``step`` steps, then remove older ones."""
        tag = f"step-{step}"
        with folder_to_write(self.folder) as folder:  # each worker's own, where it is uploaded
            self.engine.save_checkpoint(
                str(folder), tag=tag, save_latest=False, exclude_frozen_parameters=self.only_update
            )
        os.sync()  # its files are on the disk before they are named
        self.worker.wait()
        if self.worker.rank == 0:
            write_text(self.folder / LATEST, json.dumps({"step": step, **self.basis}))
            for old in self.folder.glob("step-*"):
                if old.name != tag:
                    remove(old)
