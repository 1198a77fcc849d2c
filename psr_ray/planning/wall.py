"""Wall time of a run and the share in which its GPUs work, by `engine.layout` (docs/planning.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from psr_ray.config import Config
from psr_ray.planning.memory import GIB
from psr_ray.planning.model import ModelShape

Layout = Literal["restart", "colocated", "apart"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
# Assumed of GPUs, stated with every plan: GiB of weights read or written a second by one process.
GIB_PER_S = 1.0


@dataclass(frozen=True)
class Overheads:
    """Seconds that a part of a run takes beside its work."""

    engine_start: float
    """An engine's process with its first model, ready to answer."""
    engine_load: float
    """Another model in a running engine, proven."""
    group_start: float
    """The training workers' processes and their process group."""
    training: float
    """What each training does beside optimizer steps: load, score, export."""
    stage: float = 0.0
    """What each other stage takes beside its engines."""


@dataclass(frozen=True)
class StageTime:
    """The work of a stage: seconds times GPUs (or cores' processes); ``model`` is the one its engines
    answer by, None in a training."""

    model: str | None
    work_s: float


@dataclass(frozen=True)
class LayoutTime:
    """Seconds from the first stage to the last, the share of GPU time that is work, the GPUs held."""

    wall_s: float
    busy_share: float
    gpus: int


def assumed(config: Config, shape: ModelShape) -> Overheads:
    """What is assumed of GPUs, from the model's size: nothing of it was measured on one."""
    weights = shape.weight_bytes / GIB
    graphs = 30.0 if config.engine.enforce_eager else 90.0
    read_s = weights / GIB_PER_S
    return Overheads(
        engine_start=graphs + read_s,
        engine_load=5.0 + read_s,
        group_start=40.0,
        training=10.0 + 2 * read_s,
        stage=5.0,
    )


def layout_time(
    stages: Sequence[StageTime],
    layout: Layout,
    num_engines: int,
    num_workers: int,
    over: Overheads,
    *,
    keeps_workers: bool,
) -> LayoutTime:
    """Wall time and busy share of stages that follow one another.

    ``num_engines`` and ``num_workers`` are all GPUs of the engines and of a training. With `restart`
    engines start for each model; in the other layouts once, and each further model is loaded in place.
    Training workers start for each training or once (``keeps_workers``). `apart` holds the GPUs of both
    all the time.
    """
    wall = work = 0.0
    held: str | None = None
    is_up = workers_are_up = False
    for stage in stages:
        work += stage.work_s
        if stage.model is None:
            wall += over.training + stage.work_s / num_workers
            wall += 0.0 if workers_are_up else over.group_start
            workers_are_up = keeps_workers
            is_up = is_up and layout != "restart"
            continue
        wall += over.stage + stage.work_s / num_engines
        if not is_up:
            wall += over.engine_start
        elif stage.model != held:
            wall += over.engine_load
        is_up, held = True, stage.model
    gpus = num_engines + num_workers if layout == "apart" else max(num_engines, num_workers)
    return LayoutTime(wall, work / (wall * gpus) if wall else 0.0, gpus)
