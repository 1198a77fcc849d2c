"""What psr-ray uses of Ray beyond its public API, and why: Ray 2.60.0 has no public way.

Each has a contract test in tests/test_internals.py; docs/compatibility.md lists them. What only helps a
message warns once and gives up where Ray has changed.
"""

from __future__ import annotations

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


def autoscaling_state() -> Any:
    """The autoscaler's last report (``AutoscalingState``), None where there is no autoscaler.

    ``ray.autoscaler.v2.sdk.get_cluster_status`` leaves out the requests that it can never satisfy.
    """
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    state = GetClusterStatusReply.FromString(client.get_cluster_status()).autoscaling_state
    return state if state.autoscaler_state_version else None


def infeasible_gangs() -> list[list[dict[str, float]]]:
    """The gangs of bundles that the autoscaler says it can never place; none where it does not say.

    Only the message that comes at once depends on it: without it a stage waits for its time-out.
    """
    try:
        state = autoscaling_state()
        if state is None:
            return []
        return [
            [dict(request.resources_bundle) for request in gang.requests]
            for gang in state.infeasible_gang_resource_requests
        ]
    except Exception as error:  # whatever another version of Ray raises
        warn_once(f"Ray's autoscaler cannot be asked what it can place: {error!r}")
        return []


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


@cache
def warn_once(message: str) -> None:
    """Log a warning the first time."""
    logging.getLogger("psr_ray").warning(message)
