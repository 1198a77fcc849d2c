"""Ray for a run: the cluster this process belongs to, or a local one of its own."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from psr_ray.config import Config, TelemetryConfig
from psr_ray.errors import PsrError, last_line, one_line
from psr_ray.ray_internals import on_loopback
from psr_ray.telemetry.logs import ray_settings

# Engines and training workers hold the cores; reading files and coordination need slots beside them.
SPARE_SLOTS = 4

# Seconds within which a cluster's address answers.
CONNECT_S = 10.0


def wanted_gpus(config: Config) -> int:
    """GPUs that must exist for the run to start at all."""
    engines = config.engine.num_engines[0] * config.engine.tensor_parallel_size
    training = max(
        training.num_workers if training.use_gpu else 0 for training in config.trainings().values()
    )
    return engines + training if config.engine.layout == "apart" else max(engines, training)


def local_gpus() -> int:
    """CUDA devices of this machine."""
    import torch

    return int(torch.cuda.device_count())


# A port on which nothing listens.
NO_PORT = 1


def start_local(num_gpus: int, telemetry: TelemetryConfig) -> None:
    """Start a Ray of this machine alone, with all its ports on loopback."""
    import ray

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    slots = (os.cpu_count() or 1) + SPARE_SLOTS
    # by the number of cores it warns of "a large number of actors", of which most here wait
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(slots))
    with on_loopback() as arguments:
        ray.init(
            address="local",
            num_cpus=slots,
            num_gpus=num_gpus,
            include_dashboard=False,
            # Ray's own helpers would ask what listens on 8265: another Ray's dashboard, perhaps, which
            # says that an actor of this one is dead (and Ray Train takes the workers' room away)
            dashboard_port=NO_PORT,
            log_to_driver=telemetry.logs == "json",
            logging_level=logging.ERROR,
            **arguments,
            **ray_settings(telemetry),
        )


def join(telemetry: TelemetryConfig) -> None:
    """Join the cluster this process belongs to. Raises ``PsrError`` where it does not answer."""
    import ray

    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit() and "/" not in host:  # Ray itself would try for minutes, deaf to signals
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        ray.init(
            log_to_driver=telemetry.logs == "json",
            logging_level=logging.WARNING,
            **ray_settings(telemetry),
        )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        if "Version mismatch" in str(error):
            raise PsrError(
                f"RAY_ADDRESS {address}: {one_line(error)}; run this command in the cluster's "
                "environment, or as a job: `ray job submit` runs it there"
            ) from error
        said = last_line(error.__cause__ or error)
        raise PsrError(
            f"RAY_ADDRESS {address}: no cluster could be joined ({said}); correct the address or, where "
            "the cluster asks for a token, RAY_AUTH_MODE and RAY_AUTH_TOKEN; without RAY_ADDRESS a "
            "local Ray is started"
        ) from error


@contextmanager
def connected(config: Config) -> Iterator[None]:
    """Ray is up inside; a local Ray ends with the block, a cluster keeps running.

    Raises ``PsrError`` where the cluster cannot be joined, or the config asks for GPUs that a local
    machine does not have.
    """
    import ray

    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    end = signal.getsignal(signal.SIGTERM)
    on_cluster = "RAY_ADDRESS" in os.environ or "RAY_JOB_ID" in os.environ
    if ray.is_initialized():
        yield
        return
    if on_cluster:
        join(config.telemetry)
    else:
        wanted, there = wanted_gpus(config), local_gpus()
        if wanted > there:
            raise PsrError(
                f"config asks for {wanted} GPU(s), this machine has {there}: set "
                "engine.tensor_parallel_size to 0 and sft.use_gpu, dpo.use_gpu to false to run on "
                "CPU, or submit the job to a cluster (RAY_ADDRESS)"
            )
        start_local(there, config.telemetry)
    if end is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)  # Ray's own would abort
    try:
        yield
    finally:
        ray.shutdown()
