"""Figures of each optimizer step: metrics.jsonl, TensorBoard, Ray's metrics, the run's progress."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path

from psr_ray.storage.files import write_text
from psr_ray.storage.locations import is_remote, upload
from psr_ray.telemetry.counters import StepMetrics
from psr_ray.telemetry.logs import StageLogger
from psr_ray.telemetry.progress import ProgressWriter
from psr_ray.telemetry.trackers import Trackers

NAME = "metrics.jsonl"
# Seconds between two uploads to a store.
UPLOAD_S = 10.0


class MetricsWriter:
    """Written by rank 0 alone; on other ranks every call does nothing."""

    def __init__(
        self,
        folder: Path,
        progress: ProgressWriter,
        num_steps: int,
        rank: int,
        num_done: int = 0,
        trackers: Trackers | None = None,
    ) -> None:
        """For a training of ``num_steps`` steps that resumes after ``num_done`` of them."""
        self.active = rank == 0
        if not self.active:
            return
        import ray
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        # a store's objects cannot be added to: they are written here and uploaded now and then
        self._here = Path(tempfile.mkdtemp(prefix="psr-ray-")) if is_remote(folder) else folder
        self._here.mkdir(parents=True, exist_ok=True)
        before = (
            (folder / NAME).read_text().splitlines(keepends=True)[:num_done] if num_done else []
        )
        path = self._here / NAME
        write_text(path, "".join(before))  # atomic; steps after the checkpoint are done again
        self._file = path.open("a")
        board = str(self._here / "tensorboard")
        self._board = SummaryWriter(log_dir=board, purge_step=num_done + 1 if num_done else None)
        self._uploaded_at = time.monotonic()
        self._live = StepMetrics(folder) if ray.is_initialized() else None
        self._log = StageLogger(folder)
        self._trackers = trackers
        self._progress = progress
        progress.start(num_steps, num_done)

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Add one step's figures."""
        if not self.active:
            return
        self._file.write(json.dumps({"step": step, **figures}) + "\n")
        self._file.flush()
        for name, value in figures.items():
            self._board.add_scalar(name, value, step)
        self._log.info("step", extra={"step": step, **figures})
        self._progress.advance(1, int(figures.get("num_tokens", 0)))
        if self._trackers is not None:
            self._trackers.log(step, figures)
        if self._live is not None:
            self._live.write(step, figures)
        if is_remote(self._folder) and time.monotonic() - self._uploaded_at > UPLOAD_S:
            self.flush()

    def flush(self) -> None:
        """Make sure that all lines are in the folder: called before a checkpoint."""
        if self.active and is_remote(self._folder):
            self._board.flush()
            upload(self._here, self._folder)
            self._uploaded_at = time.monotonic()

    def close(self) -> None:
        if self.active:
            self._file.close()
            self._board.close()
            self.flush()
            if self._trackers is not None:
                self._trackers.close()
            if is_remote(self._folder):
                shutil.rmtree(self._here, ignore_errors=True)
