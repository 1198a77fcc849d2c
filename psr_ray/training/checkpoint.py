"""Checkpoints of a training: DeepSpeed's, the newest one kept, read without running code."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from psr_ray.config import TrainingConfig
from psr_ray.errors import PsrError
from psr_ray.runs import CHECKPOINTS
from psr_ray.storage.files import read_json, write_text
from psr_ray.storage.locations import cache_folder, is_remote, local_copy, remove, store_of, upload
from psr_ray.training.deepspeed_internals import read_tensors_only
from psr_ray.training.job import LATEST, Worker
from psr_ray.training.losses import LossTerm

# In the names of DeepSpeed's files that one worker alone reads and writes.
PART_NAME = "zero_pp_rank_"
PART = re.compile(rf"{PART_NAME}(\d+)_")


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
        self.uploads = ThreadPoolExecutor(1)
        self.saving: tuple[int, Future[None]] | None = None  # the step of the one being uploaded
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
        with self._parts_of(self.folder / f"step-{latest['step']}") as here:
            self.engine.load_checkpoint(
                str(here.parent), tag=here.name, load_module_strict=not self.only_update
            )
            self.worker.wait()
        return int(latest["step"])

    def save(self, step: int) -> None:
        """Save the state after ``step`` steps; each worker writes its part. One in a store is uploaded
        while training goes on; ``poll`` and ``finish`` name it when all of it is there."""
        self.finish()
        folder = part_folder() if is_remote(self.folder) else self.folder
        self.engine.save_checkpoint(
            str(folder), tag=f"step-{step}", save_latest=False,
            exclude_frozen_parameters=self.only_update,
        )  # fmt: skip
        if folder is not self.folder:
            self.saving = step, self.uploads.submit(send, folder, self.folder)
            return
        os.sync()  # its files are on the disk before they are named
        self._name(step)

    def poll(self) -> None:
        """Name the checkpoint that is being uploaded, if all workers' parts are there by now. All
        workers call it after a step."""
        if self.saving is not None:
            left = {"left": float(not self.saving[1].done())}
            if not self.worker.total(left)["left"]:
                self.finish()

    def finish(self) -> None:
        """Wait for the checkpoint that is being uploaded, and name it."""
        if self.saving is not None:
            step, upload_of_part = self.saving
            self.saving = None
            upload_of_part.result()
            self._name(step)

    def _name(self, step: int) -> None:
        """A checkpoint is complete once all workers are here; older ones are removed."""
        self.worker.wait()
        if self.worker.rank == 0:
            write_text(self.folder / LATEST, json.dumps({"step": step, **self.basis}))
            for old in self.folder.glob("step-*"):
                if old.name != f"step-{step}":
                    remove(old)

    @contextmanager
    def _parts_of(self, folder: Path) -> Iterator[Path]:
        """A checkpoint's folder, or one of this machine with what this worker reads of it; of other
        workers' parts DeepSpeed asks that files are there."""
        if not is_remote(folder):
            yield folder
            return
        files, name = store_of(folder)
        names = [Path(path).name for path in files.find(name)]
        if not names:
            raise PsrError(
                f"{folder}: this checkpoint is gone; delete {folder.parent} to start over"
            )
        of_all = [each for each in names if PART.search(each) is None]
        copy = Path(local_copy(folder, without=PART_NAME)) if of_all else None
        with tempfile.TemporaryDirectory(prefix="psr-ray-") as scratch:
            here = Path(scratch) / folder.name
            here.mkdir()
            for each in names:
                part = PART.search(each)
                if part is None and copy is not None:
                    (here / each).symlink_to(copy / each)
                elif part is not None and int(part[1]) == self.worker.rank:
                    files.get_file(f"{name}/{each}", str(here / each))
                else:
                    (here / each).touch()
            yield here
        if copy is not None:
            shutil.rmtree(copy, ignore_errors=True)


def part_folder() -> Path:
    """A folder of this machine for a worker's part on its way to a store. Those of workers that were
    killed are removed."""
    cache = cache_folder()
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in cache.glob("part-*"):
        if not psutil.pid_exists(int(left.name.split("-")[1])):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"part-{os.getpid()}-", dir=cache))


def send(here: Path, folder: Path) -> None:
    """Upload what a folder of this machine holds, and remove it."""
    try:
        upload(here, folder)
    finally:
        shutil.rmtree(here, ignore_errors=True)
