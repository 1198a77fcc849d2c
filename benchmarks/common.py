"""Shared by the benchmarks: alternating repeats, medians with their spread, versions, the machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported where it is used: a benchmark of memory does without
    import torch

RESULTS = Path(__file__).resolve().parent / "results"


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most of some values."""
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


def alternate(
    sides: Mapping[str, Callable[[], float]], num_repeats: int, say: Callable[[str], None] = print
) -> dict[str, list[float]]:
    """Run every side once to warm up, then all in turn, ``num_repeats`` times; what each returned."""
    for side in sides.values():
        side()
    found: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(num_repeats):
        for name, side in sides.items():
            found[name].append(side())
        say(f"repeat {repeat + 1}: " + ", ".join(f"{n} {v[-1]:.3f}" for n, v in found.items()))
    return found


def ratios(over: list[float], under: list[float]) -> dict[str, float]:
    """Spread of the ratios of runs that were neighbours in time."""
    return spread([a / b for a, b in zip(over, under, strict=True)])


def matmul_rate(dtype: torch.dtype, device: str = "cpu", size: int = 1536) -> float:
    """Floating-point operations per second of a square matrix product, the best of ten."""
    import torch

    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        torch.matmul(a, b)
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def facts(*packages: str) -> dict[str, Any]:
    """Machine, threads, versions and commit of a result (without git: the variable GIT_COMMIT)."""
    import torch

    commit = os.environ.get("GIT_COMMIT", "")
    if not commit:
        command = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return {
        "cpu_cores": os.cpu_count(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "commit": commit,
    }


def store(name: str, result: Mapping[str, Any]) -> Path:
    """Write ``benchmarks/results/NAME.json``."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def update(name: str, parts: Mapping[str, Any]) -> Path:
    """Replace some parts of ``benchmarks/results/NAME.json``."""
    path = RESULTS / f"{name}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    return store(name, dict(sorted((known | dict(parts)).items())))
