"""The training workers of a run: Ray Train over DeepSpeed, one group for training after training.

A group's train function asks for a job, does it, and asks for the next one: imports, processes and
process group are paid once. A group ends where one of its workers dies, where a job needs other workers,
or where it is not kept.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import ray

from actors.held import Held
from actors.processes import DEATHS
from actors.remote import result_of, this_node, user_error
from psr_ray.cluster.capacity import Demand, training_demand
from psr_ray.errors import PsrError, first_line, last_line
from psr_ray.storage.locations import is_remote, store_of
from psr_ray.training.job import TrainingJob, environment

# Times a group of workers may fail to start, or to find its resources within a minute.
MAX_FAILED_STARTS = 20
# The variable that sets another number.
FAILED_STARTS = "PSR_RAY_MAX_FAILED_STARTS"
# Ray's own label of a node.
NODE_LABEL = "ray.io/node-id"
# Seconds that a group has to end by itself.
END_S = 60.0


@dataclass(frozen=True)
class Death:
    """How a group ended before its training did: the error's last line, all of it, whether a worker died
    without a word."""

    reason: str
    text: str
    was_killed: bool


class TrainingGroup:
    """An actor: starts a group of workers, gives it jobs, ends it. Jobs are numbered from 0."""

    def __init__(self, *, keep: bool) -> None:
        self.keep = keep
        self.jobs: list[TrainingJob] = []
        self.finished_by: set[int] = set()
        self.num_finished = 0
        self.is_closing = False
        self.changed = asyncio.Condition()
        self.running: asyncio.Future[Death | None] | None = None
        self.held = Held()
        self.workers, self.asked_at = "", 0.0  # the group's name in ``held``, when it was asked for

    async def is_up(self, job: TrainingJob) -> bool:
        """Whether there is a group that can take this job, or does it."""
        if self.running is None or self.running.done():
            return False
        return self.is_doing(job) or workers_of(self.jobs[-1]) == workers_of(job)

    def is_doing(self, job: TrainingJob) -> bool:
        """Whether this is the job that the group was given last, and has not done; another driver may
        ask for it, after engines have gone."""
        if self.num_finished == len(self.jobs):
            return False
        return self.jobs[-1] == replace(job, nodes=self.jobs[-1].nodes)

    async def train(self, job: TrainingJob) -> Death | None:
        """Have a job done, by a new group where there is none for it; a job that is being done is waited
        for. Returns how the group died, None where the job is done. Raises a worker's ``PsrError``."""
        up = await self.is_up(job)
        if not (up and self.is_doing(job)):
            if not up:
                await self.end()
                self.num_finished = len(self.jobs)  # what died with its group is given again
                handle, number = ray.get_runtime_context().current_actor, len(self.jobs)
                self.is_closing = False
                self.asked_at, self.workers = time.monotonic(), (name := f"workers-{number}")
                self.running = asyncio.ensure_future(asyncio.to_thread(fit, job, handle, number))
                self.running.add_done_callback(lambda _: self.held.leave(name))
                self.running.add_done_callback(lambda _: asyncio.ensure_future(self._tell()))
            self.jobs.append(job)
            await self._tell()
        number, running = len(self.jobs), self.running
        assert running is not None
        async with self.changed:
            await self.changed.wait_for(lambda: self.num_finished >= number or running.done())
        if self.num_finished < number:
            return running.result() or Death(
                "its workers ended", "its workers ended", was_killed=True
            )
        if not self.keep:
            await self.end()
        return None

    async def next(self, number: int, age_s: float) -> TrainingJob | None:
        """The job of a number, once it is there, for a worker whose process is some seconds old; None
        where the group is to end."""
        ago_s = min(age_s, time.monotonic() - self.asked_at)
        self.held.take(self.workers, demand_of(self.jobs[-1]).held, ago_s)
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.jobs) > number or self.is_closing)
        return self.jobs[number] if len(self.jobs) > number else None

    async def finished(self, number: int, rank: int) -> None:
        """A worker has done its part of a job and freed its memory."""
        self.finished_by.add(rank)
        if len(self.finished_by) == self.jobs[number].training.num_workers:
            self.finished_by, self.num_finished = set(), number + 1
            await self._tell()

    async def end(self) -> None:
        """End the group, once its job is done."""
        running, self.running = self.running, None
        self.is_closing, self.finished_by = True, set()
        await self._tell()
        if running is not None:
            await asyncio.wait([running], timeout=END_S)

    async def pop_held(self) -> dict[str, float]:
        """What workers have held since this was asked last: resources times seconds."""
        return self.held.pop()

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()


@contextmanager
def training_group(*, keep: bool, **options: Any) -> Iterator[Any]:
    """A group's actor on this node, with these options; its workers end with the block. Where its
    process dies they die with it, and it starts again without any."""
    actor: Any = ray.remote(num_cpus=0, max_restarts=-1)(TrainingGroup)
    options |= {"max_concurrency": 1000, "scheduling_strategy": this_node()}
    group = actor.options(**options).remote(keep=keep)
    try:
        yield group
        result_of(group.end.remote())
    finally:
        with suppress(ray.exceptions.RayError):
            ray.kill(group)  # and with it its workers, whatever they do


def workers_of(job: TrainingJob) -> tuple[Any, ...]:
    """What a job asks of its workers: jobs that ask for the same can have the same group."""
    demand, training = demand_of(job), job.training
    return demand.num, demand.bundle, job.nodes, training.use_gpu, environment(training)


def demand_of(job: TrainingJob) -> Demand:
    """The resources of a training's workers."""
    engine, beside = job.config.engine, bool(job.nodes)
    return training_demand(job.training, job.kind, engine, beside_engines=beside)


def on_nodes_of(job: TrainingJob) -> list[dict[str, str]] | None:
    """Ray's labels of the nodes of a training's workers; None where any will do."""
    return [{NODE_LABEL: node} for node in job.nodes] or None


def fit(job: TrainingJob, group: Any, number: int) -> Death | None:
    """A group of workers from its first job, of this number, to its end."""
    from ray.train import (
        ControllerError,
        FailureConfig,
        RunConfig,
        ScalingConfig,
        TrainingFailedError,
    )

    from actors.ray_train_internals import CleanTrainer, NodesTorchConfig

    training = job.training
    trainer = CleanTrainer(
        train_on_worker,
        train_loop_config={"group": group, "number": number},
        torch_config=NodesTorchConfig(backend="nccl" if training.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=training.num_workers,
            use_gpu=training.use_gpu,
            resources_per_worker=demand_of(job).bundle,
            label_selector=on_nodes_of(job),
        ),
        run_config=RunConfig(
            name="ray_train",
            # a group that lost a worker is a death of ours: another one goes on from the last checkpoint
            failure_config=FailureConfig(
                max_preemption_failures=0,
                controller_failure_limit=int(os.environ.get(FAILED_STARTS, MAX_FAILED_STARTS)),
            ),
            **storage_settings(job.out),
            worker_runtime_env={"env_vars": environment(training)},
        ),
    )
    try:
        trainer.fit()
    except ControllerError as error:
        raise PsrError(
            f"{job.stage}: {training.num_workers} training workers could not be started "
            f"({first_line(error.controller_failure)}); see that the cluster has their CPUs, GPUs "
            "and memory, then rerun the command to resume"
        ) from error
    except TrainingFailedError as error:
        for cause in getattr(error, "worker_failures", {}).values():
            found = user_error(cause)
            if found is not None:
                raise found from error
        return Death(last_line(error), str(error), was_killed(error))
    return None


def train_on_worker(settings: dict[str, Any]) -> None:
    """Run by Ray Train in each worker, inside its process group."""
    import gc

    import torch
    from ray.train import get_context

    group, number, rank = settings["group"], settings["number"], get_context().get_world_rank()
    age_s = time.time() - psutil.Process().create_time()
    while (job := ray.get(group.next.remote(number, age_s))) is not None:
        run_here(job)
        gc.collect()  # engine, hooks and model refer to each other
        if job.training.use_gpu:
            torch.cuda.empty_cache()
        ray.get(group.finished.remote(number, rank))
        number += 1


def run_here(job: TrainingJob) -> None:
    """This worker's part of a training. Raises ``PsrError`` where its GPU has too little memory: another
    try would end in the same way."""
    import torch

    from psr_ray.training.trainer import Trainer

    try:
        Trainer(job).run()
    except torch.OutOfMemoryError as error:
        raise PsrError(
            f"{job.stage}: too little GPU memory ({first_line(error)}); lower tokens_per_pass, or set "
            "gradient_checkpointing, a higher zero_stage or lora (psr-ray plan says what fits), and "
            "rerun the command: it goes on from the last checkpoint"
        ) from error


def storage_settings(folder: Path) -> dict[str, Any]:
    """Ray Train's settings for what it keeps of its own, in a training's folder."""
    if not is_remote(folder):
        return {"storage_path": str(folder)}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    files, name = store_of(folder)
    return {"storage_path": name, "storage_filesystem": PyFileSystem(FSSpecHandler(files))}


def was_killed(error: Any) -> bool:
    """Whether a worker of a training died without a word; its peers fail where they wait for it."""
    causes = getattr(error, "worker_failures", {}).values()
    found = [getattr(cause, "health_check_failure", cause) for cause in causes]
    return any(isinstance(cause, DEATHS) for cause in found)
