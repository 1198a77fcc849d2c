"""Ray Train over DeepSpeed: a job on a group of workers, errors of ours passed on as they are."""

from __future__ import annotations

from psr_ray.errors import PsrError
from psr_ray.training.worker import TrainingJob, environment, train


def run_training(job: TrainingJob) -> None:
    """Train a model under Ray Train; its folder is ``job.out``/model afterwards."""
    from ray.train import RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    training = job.training
    resources: dict[str, float] = {"CPU": training.cpus_per_worker}
    if training.use_gpu:
        resources["GPU"] = 1
    trainer = TorchTrainer(
        lambda settings: train(settings["job"]),
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if training.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=training.num_workers,
            use_gpu=training.use_gpu,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name="ray_train",
            storage_path=str(job.out.absolute()),
            worker_runtime_env={"env_vars": environment(training)},
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        for cause in getattr(error, "worker_failures", {}).values():
            found = user_error(cause)
            if found is not None:
                raise found from error
        raise


def user_error(error: BaseException | None) -> PsrError | None:
    """The ``PsrError`` among the causes of an error, if there is one."""
    while error is not None:
        if isinstance(error, PsrError):
            return error
        error = getattr(error, "cause", None) or error.__cause__
    return None
