"""Room on the cluster: it is asked for by a placement group, which also makes an autoscaler start nodes.

The engine pool keeps its group, so that no other run takes the room. That of a training is removed once
it is there: Ray Train asks for its own. Ray keeps a group until the job ends, though the actor that
asked for it has died: each has a name, by which it is found and removed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import ray
from ray.util.placement_group import (
    get_placement_group,
    placement_group,
    remove_placement_group,
)

from psr_ray.cluster.capacity import Demand, countable, resources_text
from psr_ray.errors import PsrError
from psr_ray.ray_internals import infeasible_gangs

# Report what we are waiting for after this many seconds.
REPORT_AFTER_S = 2.0


def room_for(
    name: str,
    demand: Demand,
    strategy: Literal["STRICT_PACK", "PACK"],
    labels: list[dict[str, str]] | None = None,
) -> Any:
    """A placement group of the demand's bundles, which is not there yet; with ``labels`` each on a node
    with its own. One of this name that a process left as it died is removed."""
    remove_room(name)
    bundles = [dict(demand.bundle) for _ in range(demand.num)]
    return placement_group(bundles, strategy=strategy, name=name, bundle_label_selector=labels)


def remove_room(name: str) -> None:
    """Remove the job's room of this name, if there is one, with what runs in it."""
    with suppress(ValueError):
        remove_placement_group(get_placement_group(name))


def await_room(
    room: Any,
    demand: Demand,
    stage: str,
    timeout_s: float,
    report: Callable[[str | None], None],
) -> None:
    """Wait until the demand's room is there; ``report`` gets what the stage waits for.

    Raises ``PsrError`` after ``timeout_s`` seconds, with what was asked for and what is free.
    """
    started = time.monotonic()
    while not room.wait(REPORT_AFTER_S):
        waited = time.monotonic() - started
        if waited > timeout_s:
            raise PsrError(
                f"{stage}: no room on the cluster within {timeout_s:g} s (resources_timeout_s): "
                f"asked for {demand}; free: {free_text()}; finished work is kept, rerun the command "
                f"to resume; lower {demand.settings}, or give the cluster more"
            )
        wanted = {name: float(value) for name, value in demand.bundle.items()}
        if [wanted] * demand.num in infeasible_gangs():
            raise PsrError(
                f"{stage}: the cluster's autoscaler can never start nodes for {demand}; free: "
                f"{free_text()}; lower {demand.settings}, or give the cluster larger nodes"
            )
        report(f"waiting for {demand} ({waited:.0f} s); free now: {free_text()}")
    report(None)


def free_text() -> str:
    """The cluster's free CPUs, GPUs and custom resources, as text."""
    free, all_of_it = ray.available_resources(), countable(ray.cluster_resources())
    return (
        f"{resources_text({name: free.get(name, 0) for name in all_of_it})} of "
        + resources_text(all_of_it)
    )
