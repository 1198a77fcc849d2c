"""Progress of a run as a small file: written by the process that does the work, read by the CLI.

A file survives the process that wrote it, and can be read wherever the run folder is mounted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from psr_ray.storage.files import read_json, write_text
from psr_ray.storage.locations import is_remote

FILE_NAME = "progress.json"


@dataclass(frozen=True)
class ProgressState:
    """The current stage of a run and its progress."""

    stage: str
    done: int
    total: int
    unit: str
    num_tokens: int
    started_at: float
    waiting: str | None = None
    """The thing it waits for; None where it does not wait."""
    written_at: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / max(time.time() - self.started_at, 1e-9)

    @property
    def left_s(self) -> float | None:
        """Estimated seconds to the stage's end; None before anything is done."""
        if not self.done:
            return None
        return (time.time() - self.started_at) * (self.total - self.done) / self.done


def interval_s(run_dir: Path) -> float:
    """Seconds between two writes, or reads, of the state: each is a request where it is in a store."""
    return 5.0 if is_remote(run_dir) else 0.3


class ProgressWriter:
    """Writes the state of one stage; ``advance`` may be called often, and does not write while
    ``is_shown`` says no: another stage is shown, beside which this one has begun."""

    def __init__(
        self, run_dir: Path, stage: str, unit: str, is_shown: Callable[[], bool] = lambda: True
    ) -> None:
        self.is_shown = is_shown
        self.path = run_dir / FILE_NAME
        self.stage = stage
        self.unit = unit
        self.done = self.total = self.num_tokens = 0
        self.started_at = time.time()
        self.waiting: str | None = None
        self._written_at = 0.0
        self._interval_s = interval_s(run_dir)

    def start(self, total: int, done: int = 0) -> None:
        """Begin counting; ``done`` rows were finished earlier."""
        self.done, self.total, self.num_tokens = done, total, 0
        self.started_at = time.time()
        self._write()

    def wait(self, what: str | None) -> None:
        """Report what the stage waits for; None: it waits no longer."""
        if what != self.waiting:
            self.waiting = what
            self._write()

    def advance(self, rows: int, num_tokens: int = 0) -> None:
        self.done += rows
        self.num_tokens += num_tokens
        if time.time() - self._written_at > self._interval_s or self.done >= self.total:
            self._write()

    def _write(self) -> None:
        if not self.is_shown():
            return
        state = ProgressState(
            self.stage,
            self.done,
            self.total,
            self.unit,
            self.num_tokens,
            self.started_at,
            self.waiting,
            time.time(),
        )
        write_text(self.path, json.dumps(asdict(state)))
        self._written_at = time.time()


def read_progress(run_dir: Path) -> ProgressState | None:
    """The newest state; None before the first stage."""
    values = read_json(run_dir / FILE_NAME)
    return None if values is None else ProgressState(**values)
