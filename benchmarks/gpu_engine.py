"""An engine's start, sleep, wake and reload, as the layouts of `engine.layout` need them.

    benchmarks/gpu_session.sh engine FOLDER
    python -m benchmarks.gpu_engine                 (the embedded model on CPU, where sleep does nothing)

Seconds of each, and GiB of GPU memory that an engine holds awake and asleep. The weights that are loaded
in place are the model's own: what is measured is the time, not the proof (tests/test_weights.py).
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer

from benchmarks.common import facts, spread, store
from psr_ray.config.file import load_config
from psr_ray.inference.engine import VllmEngine
from psr_ray.storage.locations import local_copy


def seconds(work: Callable[[], Any]) -> float:
    """Seconds that some work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def held_gib() -> float:
    """GiB of this machine's first GPU that are taken, by any process; 0 without one."""
    if not torch.cuda.is_available():
        return 0.0
    ask = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    used = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
    return round(float(used) / 1024, 2)


def main(
    model: Annotated[str, typer.Option(help="folder, or tiny-m0")] = "tiny-m0",
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE of the config")] = None,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Measure; stored on a GPU alone."""
    settings = ["engine.layout=colocated", *(set_ or ()), f"model.base={model}"]
    config = load_config("configs/smoke.yaml", tuple(settings))
    folder, engine = local_copy(model), None

    def start() -> None:
        nonlocal engine
        engine = VllmEngine(folder, config.model, config.engine, config.seed)

    found: dict[str, Any] = {"start_s": round(seconds(start), 2), "awake_gib": held_gib()}
    assert engine is not None
    models = engine.models
    times: dict[str, list[float]] = {"sleep_s": [], "wake_s": [], "load_s": []}
    for _ in range(repeats):
        times["sleep_s"].append(seconds(models.sleep))
        found["asleep_gib"] = held_gib()
        times["wake_s"].append(seconds(models.wake))
        times["load_s"].append(seconds(lambda: models.load(folder)))
    found |= {name: spread(values) for name, values in times.items()}
    print(found, flush=True)
    if torch.cuda.is_available():
        found |= {"model": model, "gpu": torch.cuda.get_device_name()}
        print(f"stored: {store('gpu_engine', found | facts('torch', 'vllm'))}")
    engine.close()


if __name__ == "__main__":
    typer.run(main)
