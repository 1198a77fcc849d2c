"""Processes of this machine, known by number and start time: ended, and waited for."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from psr_ray.storage.lease import start_of

# Number, and when it started (`start_of`).
Process = tuple[int, int]
# What a call to an actor whose process has died raises.
DEATHS = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError)
# Seconds that a process has to end by itself.
END_S = 60.0


def end_processes(family: list[Process]) -> None:
    """Wait for processes to end; kill those that do not within a minute."""
    left = []
    for pid, started in family:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if start_of(pid) == started:
                left.append(process)
    for process in alive_after(END_S, left):
        process.kill()
    alive_after(END_S, left)


def alive_after(seconds: float, processes: list[psutil.Process]) -> list[psutil.Process]:
    """Wait for processes to end; returns those that have not. One that nobody has waited for (a zombie)
    has ended."""
    until, left = time.monotonic() + seconds, processes
    while left := [process for process in left if is_alive(process)]:
        if time.monotonic() > until:
            break
        time.sleep(0.05)
    return left


def is_alive(process: psutil.Process) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def end_this_process() -> NoReturn:
    """Kill the children of this process, then itself."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit  # never reached


def alive_nodes() -> set[str]:
    """Ids of the cluster's nodes."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def on_nodes(function: Callable[[Any], None], arguments: Mapping[str, Any]) -> None:
    """Call a function on each of these nodes that is alive, with its argument; wait for all."""
    here = ray.get_runtime_context().get_node_id()
    alive = alive_nodes()
    task: Any = ray.remote(num_cpus=0)(function)
    pending = {
        node: task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote(argument)
        for node, argument in arguments.items()
        if node != here and node in alive
    }
    if here in arguments:
        function(arguments[here])
    for node, answer in pending.items():
        try:
            ray.get(answer)
        except (ray.exceptions.RaySystemError, ray.exceptions.RayTaskError):
            raise
        except ray.exceptions.RayError as error:
            # where the node is gone, so is what ran there
            if node in alive_nodes():
                name, reason = function.__name__, str(error).splitlines()[0]
                logging.getLogger("psr_ray").warning(
                    "%s on node %s, which Ray counts as alive: %s", name, node, reason
                )
