"""A training, from its last checkpoint to the end: its workers are started again where one dies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from actors.placement import await_room, remove_room, room_for
from actors.processes import DEATHS
from actors.remote import result_of
from actors.training_group import Death, demand_of, on_nodes_of, training_group
from psr_ray.config import EngineConfig
from psr_ray.errors import PsrError, last_line
from psr_ray.telemetry.logs import StageLogger
from psr_ray.telemetry.progress import ProgressWriter
from psr_ray.training.job import TrainingJob, steps_kept

# Deaths in a row without a new checkpoint between them, after which a training is given up.
MAX_IDLE_DEATHS = 2
# Tells on which nodes engines sleep that leave a training their GPUs.
Beside = Callable[[], tuple[str, ...]]


@contextmanager
def resting(pool: Any, engine: EngineConfig) -> Iterator[Callable[[], tuple[str, ...]]]:
    """A training runs in this block: engines end or wait, by the layout, but not for ever (those that
    share its GPUs do: it works under their reservation). Gives a function: the nodes of the engines that
    leave it their GPUs, one for each of its workers, or none."""
    num = engine.num_engines[0]
    result_of(pool.rest.remote(engine.layout, num))
    if engine.shares_gpus:
        yield lambda: result_of(pool.beside.remote(num))
        return
    giving_back = threading.Timer(engine.max_idle_s, pool.rest.remote, ("restart", 0))
    giving_back.daemon = True
    giving_back.start()
    try:
        yield tuple
    finally:
        giving_back.cancel()


class EnginesGoneError(Exception):
    """Engines whose GPUs the workers were to take are gone."""


def await_workers_room(job: TrainingJob, progress: ProgressWriter, beside: Beside) -> None:
    """Wait for a job's room before Ray Train does, which would wait silently. Raises
    ``EnginesGoneError``."""

    def waiting(what: str | None) -> None:
        progress.wait(what)
        if what is not None and job.nodes != beside():
            raise EnginesGoneError

    demand, name = demand_of(job), f"workers of {job.out}"
    room = room_for(name, demand, "PACK", on_nodes_of(job))
    try:
        await_room(room, demand, job.stage, job.config.resources_timeout_s, waiting)
    finally:
        remove_room(name)


def run_training(job: TrainingJob, group: Any = None, beside: Beside = tuple) -> None:
    """Train a model under Ray Train; its folder is ``job.out``/model afterwards. Without a ``group``
    workers start and end here.

    Workers that die are replaced and resume from the last checkpoint. A worker's ``PsrError`` is raised
    unchanged, any other error after ``MAX_IDLE_DEATHS`` deaths without progress.
    """
    progress = ProgressWriter(job.run_dir, job.stage, "steps")
    num_deaths = 0
    with nullcontext(group) if group is not None else training_group(keep=False) as workers:
        while True:
            kept, job = steps_kept(job.out), replace(job, nodes=beside())
            try:
                if not result_of(workers.is_up.remote(job)):
                    await_workers_room(job, progress, beside)
                death = result_of(workers.train.remote(job))
            except EnginesGoneError:
                continue
            except DEATHS as error:
                death = Death(last_line(error), str(error), was_killed=True)
            if death is None:
                return
            now = steps_kept(job.out)
            num_deaths = 0 if now > kept else num_deaths + 1
            if num_deaths >= MAX_IDLE_DEATHS:
                if not death.was_killed:
                    raise RuntimeError(f"{job.stage}: {death.text}")
                raise PsrError(
                    f"{job.stage}: workers were killed {num_deaths} times without a checkpoint between "
                    "them (out of memory?); rerun the command to resume from the last one; lower "
                    "tokens_per_pass, or checkpoint_steps where they are taken away"
                )
            StageLogger(job.out).warning(
                "a training worker died (%s); resuming after step %d", death.reason, now
            )
