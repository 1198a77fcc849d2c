"""Non-public parts of Ray that psr-ray uses, and why: Ray 2.60.0 has no public way.

Each has a contract test in tests/test_internals.py; docs/compatibility.md lists them. What only helps a
message warns once and gives up where Ray has changed.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psutil


@contextmanager
def on_loopback() -> Iterator[dict[str, str]]:
    """Inside, ``ray.init`` with these arguments starts a Ray all of whose ports are on loopback.

    Ray keeps 127.0.0.1 as a node's address only where clusters are switched off, as on macOS; elsewhere
    it takes the network's address and listens there. The constant is read in this process, the variable
    in those that it starts.
    """
    from ray._private import ray_constants

    variable = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    constant, value = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(variable)
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[variable] = False, "0"
    try:
        yield {"_node_ip_address": "127.0.0.1"}
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = constant
        if value is None:
            del os.environ[variable]
        else:
            os.environ[variable] = value


def has_autoscaler() -> bool | None:
    """Whether the cluster has an autoscaler; None where Ray cannot be asked."""
    state = _asked()
    return None if state is None else bool(state.autoscaler_state_version)


def infeasible_gangs() -> list[list[dict[str, float]]]:
    """The gangs of bundles that the autoscaler says it can never place; none where it does not say.

    ``ray.autoscaler.v2.sdk.get_cluster_status`` leaves them out. Only a message that comes at once
    depends on them: without it a stage waits for its time-out.
    """
    state = _asked()
    return [
        [dict(request.resources_bundle) for request in gang.requests]
        for gang in ([] if state is None else state.infeasible_gang_resource_requests)
    ]


def _asked() -> Any:
    """The autoscaler's last report; None, with one warning, where this Ray has no such thing."""
    try:
        return autoscaling_state()
    except Exception as error:  # whatever another version of Ray raises
        warn_once("Ray's autoscaler cannot be asked what it can place (%s)", type(error).__name__)
        return None


def autoscaling_state() -> Any:
    """The autoscaler's last report (``AutoscalingState``); its version is 0 where there is none."""
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    return GetClusterStatusReply.FromString(client.get_cluster_status()).autoscaling_state


def autoscaler_file() -> Path | None:
    """The cluster file that this cluster's autoscaler was started with, where it runs on this machine:
    Ray shows it nowhere but on the command line of its ``monitor.py``."""
    import ray

    address = ray.get_runtime_context().gcs_address
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        options = dict(
            part.split("=", 1) for part in arguments if part.startswith("--") and "=" in part
        )
        if "monitor.py" in " ".join(arguments) and options.get("--gcs-address") == address:
            file = options.get("--autoscaling-config")
            return Path(file).expanduser() if file else None
    return None


def submission_id() -> str | None:
    """The id under which this process was submitted as a Ray job, None where it was not."""
    found = job_config().get("metadata", {}).get("job_submission_id")
    return None if found is None else str(found)


def upload_holding(path: Path) -> Path | None:
    """The folder that was uploaded with this job (``--working-dir``), where a path is in it. Ray unpacks
    it on each node, under a name that changes with its files and with the cluster, starts every worker
    of the job in it, and deletes it some time after the job."""
    uploaded = job_config().get("runtime_env", {}).get("working_dir") or ""
    if "://" not in uploaded or uploaded.startswith("local://"):  # there already, nothing unpacked
        return None
    from ray._private.runtime_env.packaging import get_local_dir_from_uri

    name = get_local_dir_from_uri(uploaded, "").name
    path = path.absolute()
    return next((p for p in (path, *path.parents) if p.name == name), None)


def job_config() -> dict[str, Any]:
    """The config of the Ray job that this process is, empty where it is none. It is wanted before
    ``ray.init``; Ray tells a job's process nothing else."""
    found: dict[str, Any] = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    return found


@cache
def warn_once(message: str, why: str) -> None:
    """Log a warning the first time."""
    logging.getLogger("psr_ray").warning(message, why)
