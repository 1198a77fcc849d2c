"""Peak memory of a run on this machine: this process and all that it started."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import TracebackType

import psutil

from psr_ray.storage.files import read_json, write_text

FILE_NAME = "memory.json"


def resident_bytes() -> int:
    """Resident memory of this process and its descendants, shared pages counted once (PSS)."""
    total = 0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return total


class PeakMemory:
    """Samples memory every two seconds inside a ``with`` block; keeps the peak of all parts of a
    run in its folder."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / FILE_NAME
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)
        self.peak = int((read_json(self.path) or {}).get("peak_rss_bytes", 0))

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        write_text(self.path, json.dumps({"peak_rss_bytes": self.peak}))

    def _sample(self) -> None:
        while not self._stop.wait(2.0):
            self.peak = max(self.peak, resident_bytes())
