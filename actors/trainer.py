"""Ray Train over DeepSpeed: a job on a group of workers, started again where one dies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError

from actors.placement import await_room
from actors.remote import user_error
from psr_ray.cluster.capacity import training_demand
from psr_ray.errors import PsrError, first_line, last_line
from psr_ray.storage.locations import is_remote, store_of
from psr_ray.telemetry.logs import StageLogger
from psr_ray.telemetry.progress import ProgressWriter
from psr_ray.training.job import TrainingJob, environment, steps_kept

# Deaths in a row without a new checkpoint between them, after which a training is given up.
MAX_IDLE_DEATHS = 2
# Times a group of workers may fail to start, or to find its resources within a minute.
MAX_FAILED_STARTS = 20


def run_training(job: TrainingJob) -> None:
    """Train a model under Ray Train; its folder is ``job.out``/model afterwards.

    Workers that die are replaced and resume from the last checkpoint. A worker's ``PsrError`` is raised
    unchanged, any other error after ``MAX_IDLE_DEATHS`` deaths without progress.
    """
    from ray.train import ControllerError, TrainingFailedError

    progress = ProgressWriter(job.run_dir, job.stage, "steps")
    demand = training_demand(job.training, job.kind)
    num_deaths = 0
    while True:
        # before Ray Train, which would wait silently
        await_room(demand, job.stage, job.config.resources_timeout_s, progress.wait, "PACK")
        kept = steps_kept(job.out)
        try:
            fit(job)
        except ControllerError as error:
            raise PsrError(
                f"{job.stage}: {job.training.num_workers} training workers could not be started "
                f"({first_line(error.controller_failure)}); see that the cluster has their CPUs, GPUs "
                "and memory, then rerun the command to resume"
            ) from error
        except TrainingFailedError as error:
            for cause in getattr(error, "worker_failures", {}).values():
                found = user_error(cause)
                if found is not None:
                    raise found from error
            now = steps_kept(job.out)
            num_deaths = 0 if now > kept else num_deaths + 1
            if num_deaths >= MAX_IDLE_DEATHS:
                if not was_killed(error):
                    raise
                raise PsrError(
                    f"{job.stage}: workers were killed {num_deaths} times without a checkpoint between "
                    "them (out of memory?); rerun the command to resume from the last one; lower "
                    "tokens_per_pass, or checkpoint_steps where they are taken away"
                ) from error
            StageLogger(job.out).warning(
                "a training worker died (%s); resuming after step %d", last_line(error), now
            )
        else:
            return


def fit(job: TrainingJob) -> None:
    """One group of workers, from the last checkpoint to the end."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    from actors.ray_train_internals import CleanTrainer

    training = job.training
    resources: dict[str, float] = {"CPU": training.cpus_per_worker}
    if training.use_gpu:
        resources["GPU"] = 1
    trainer = CleanTrainer(
        train_on_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if training.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=training.num_workers,
            use_gpu=training.use_gpu,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name="ray_train",
            failure_config=FailureConfig(controller_failure_limit=MAX_FAILED_STARTS),
            **storage_settings(job.out),
            worker_runtime_env={"env_vars": environment(training)},
        ),
    )
    trainer.fit()


def train_on_worker(settings: dict[str, Any]) -> None:
    """Run by Ray Train in each worker, inside its process group."""
    from psr_ray.training.trainer import Trainer

    Trainer(settings["job"]).run()


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
    return any(isinstance(cause, RayActorError) for cause in found)
