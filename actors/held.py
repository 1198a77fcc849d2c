"""What a run holds of the cluster, whether it works or not: for its cost, resources times seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from psr_ray.cluster.capacity import engine_demand, training_demand
from psr_ray.config import Config
from psr_ray.storage.files import Json


class Held:
    """Counts what processes reserve, each under a name from ``take`` to ``leave``; may be called by any
    thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.since: dict[str, tuple[float, Mapping[str, float]]] = {}
        self.seconds: dict[str, float] = {}

    def take(self, name: str, resources: Mapping[str, float], ago_s: float = 0.0) -> None:
        """A process is in its place, since some seconds ago; once more says nothing new."""
        with self.lock:
            self.since.setdefault(name, (time.monotonic() - ago_s, resources))

    def leave(self, name: str) -> None:
        """It has ended, if it ever was there."""
        with self.lock:
            self._count(name, time.monotonic())

    def pop(self) -> dict[str, float]:
        """Resources times seconds since it was asked last: ``{"CPU": 120.0, "GPU": 60.0}``."""
        with self.lock:
            now = time.monotonic()
            for name, (_, resources) in list(self.since.items()):
                self._count(name, now)
                self.since[name] = now, resources
            found, self.seconds = self.seconds, {}
            return found

    def _count(self, name: str, now: float) -> None:
        since, resources = self.since.pop(name, (now, {}))
        for resource, amount in resources.items():
            self.seconds[resource] = self.seconds.get(resource, 0.0) + amount * (now - since)


def worked(config: Config, kind: str, facts: Json) -> dict[str, float]:
    """For how long engines and training workers of a stage worked: resources times seconds, by what the
    stage says of itself."""
    name = {"sft": "sft", "train": "dpo"}.get(kind)
    if name is not None:
        demand = training_demand(config.trainings()[name], name, config.engine)
        seconds = facts["steps_s"]
    elif "engines" in facts:
        demand, seconds = engine_demand(config.engine), facts["engines"]["busy_s"]
    else:
        return {}
    return {resource: amount * seconds for resource, amount in demand.held.items()}
