"""Figures of each optimizer step: metrics.jsonl, TensorBoard, and the run's progress."""

from __future__ import annotations

import json
from pathlib import Path

from psr_ray.files import write_text
from psr_ray.progress import ProgressWriter


class MetricsWriter:
    """Written by rank 0 alone; on other ranks every call does nothing."""

    def __init__(
        self, folder: Path, progress: ProgressWriter, num_steps: int, rank: int, num_done: int = 0
    ) -> None:
        """A training of ``num_steps`` steps that goes on after ``num_done`` of them."""
        self.active = rank == 0
        if not self.active:
            return
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        before = path.read_text().splitlines(keepends=True)[:num_done] if num_done else []
        write_text(
            path, "".join(before)
        )  # whole or not; steps after the checkpoint are taken again
        self._file = path.open("a")
        board = str(folder / "tensorboard")
        self._board = SummaryWriter(log_dir=board, purge_step=num_done + 1 if num_done else None)
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
        self._progress.advance(1, int(figures.get("num_tokens", 0)))

    def close(self) -> None:
        if self.active:
            self._file.close()
            self._board.close()
