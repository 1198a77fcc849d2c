"""Room on the cluster before a stage starts, and proof that the last one's engines are gone.

Room is asked for by a placement group, which also has an autoscaler start nodes; it is given back at
once, for the pool or Ray Train to take.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from psr_ray.cluster.capacity import Demand, resources_text
from psr_ray.cluster.nodes import autoscaling_state
from psr_ray.errors import PsrError
from psr_ray.storage.files import Json, read_json, write_text

# Marks of the engines that were started, in a stage's folder.
ENGINES = "engines"
# There, the versions of the command that starts them.
COMMAND = "command.json"
# Seconds without room after which it is said what is waited for.
SAY_AFTER_S = 2.0
# Seconds an engine's processes have to end after its pool.
END_S = 60.0
# Seconds between two looks for nodes that have come.
LOOK_S = 5.0


@contextmanager
def looking_for_nodes() -> Iterator[None]:
    """Inside, nodes that join are seen by Ray Data within ``LOOK_S``: by itself it looks every 20 s
    (Ray 2.60, ``_AutoscalingCoordinatorActor.TICK_INTERVAL_S``)."""
    from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator

    coordinator, over = get_or_create_autoscaling_coordinator(), threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            # its answer, or that it died and comes back, is of no interest here
            coordinator.get_reserved_resources.remote("psr-ray", recompute=True)

    thread = threading.Thread(target=look, name="look-for-nodes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def await_room(
    demand: Demand,
    stage: str,
    timeout_s: float,
    say: Callable[[str | None], None],
    strategy: Literal["STRICT_PACK", "PACK"],
) -> None:
    """Wait until the demand's bundles can be placed at once; ``say`` is told what is waited for.

    Raises ``PsrError`` after ``timeout_s`` seconds, with what was asked for and what is there.
    """
    bundles = [dict(demand.bundle) for _ in range(demand.num)]
    group = placement_group(bundles, strategy=strategy)
    started = time.monotonic()
    try:
        while not group.wait(SAY_AFTER_S):
            waited = time.monotonic() - started
            if waited > timeout_s:
                raise PsrError(
                    f"{stage}: no room on the cluster within {timeout_s:g} s (resources_timeout_s): "
                    f"asked for {demand}; there is {free_text()}; finished work is kept, the same "
                    f"command goes on; lower {demand.settings}, or give the cluster more"
                )
            if is_infeasible(demand):
                raise PsrError(
                    f"{stage}: the cluster's autoscaler can never start nodes for {demand}; there is "
                    f"{free_text()}; lower {demand.settings}, or give the cluster larger nodes"
                )
            say(f"waiting for {demand} ({waited:.0f} s); free now: {free_text()}")
    finally:
        remove_placement_group(group)
    say(None)


def is_infeasible(demand: Demand) -> bool:
    """Whether the autoscaler has reported that it can never place these bundles."""
    wanted = [{name: float(value) for name, value in demand.bundle.items()}] * demand.num
    return any(
        [dict(request.resources_bundle) for request in group.requests] == wanted
        for group in autoscaling_state().infeasible_gang_resource_requests
    )


def free_text() -> str:
    """What is free on each node that is alive."""
    free = ray._private.state.available_resources_per_node()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return "; ".join(
        f"{resources_text(free.get(node['NodeID'], {}))} of {resources_text(node['Resources'])}"
        for node in nodes
    )


def mark_engine(stage: Path, loading_s: float) -> None:
    """Note this process, its children and its node as an engine of a stage."""
    me = psutil.Process()
    family = [me, *me.children(recursive=True)]
    mark = {
        "node": ray.get_runtime_context().get_node_id() if ray.is_initialized() else None,
        "processes": [[process.pid, process.create_time()] for process in family],
        "loading_s": loading_s,
        "ready_at": time.time(),
    }
    write_text(stage / ENGINES / f"engine-{uuid.uuid4().hex}.json", json.dumps(mark))


def engine_marks(stage: Path) -> list[Json]:
    """The engines that were started for a stage, in the order in which they were ready."""
    marks = [read_json(path) or {} for path in (stage / ENGINES).glob("engine-*.json")]
    return sorted(marks, key=lambda mark: float(mark["ready_at"]))


def await_ended(stage: Path) -> None:
    """Wait until the engines of a stage have ended as processes, wherever they ran: their GPUs are then
    free. One that does not end in a minute is killed."""
    here = ray.get_runtime_context().get_node_id()
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    processes: dict[str, list[Any]] = {}
    for mark in engine_marks(stage):
        processes.setdefault(mark["node"], []).extend(mark["processes"])
    end: Any = ray.remote(num_cpus=0)(end_processes)
    pending = []
    for node, family in processes.items():
        if node == here:
            end_processes(family)
        elif node in alive:
            affinity = NodeAffinitySchedulingStrategy(node, soft=False)
            pending.append(end.options(scheduling_strategy=affinity).remote(family))
    for answer in pending:
        try:
            ray.get(answer)
        except (ray.exceptions.RaySystemError, ray.exceptions.RayTaskError):
            raise
        except ray.exceptions.RayError:
            continue  # the node went away meanwhile, and with it what ran there


def end_processes(family: list[tuple[int, float]]) -> None:
    """Wait for processes, by number and time of creation, to end; kill what does not."""
    left = []
    for pid, created in family:
        try:
            process = psutil.Process(pid)
            if process.create_time() == created:
                left.append(process)
        except psutil.NoSuchProcess:
            continue
    _, left = psutil.wait_procs(left, timeout=END_S)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=END_S)
