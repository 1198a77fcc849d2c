"""The resources that a run needs, and whether the cluster can ever provide them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psr_ray.config import Config, EngineConfig, TrainingConfig
from psr_ray.errors import PsrError

Resources = Mapping[str, float]
# Ray's names of a placement group's parts: CPU_group_0_911aa66ea052…, bundle_group_911aa66ea052….
IN_GROUP = re.compile(r"_group_(\d+_)?[0-9a-f]{20,}$")


@dataclass(frozen=True)
class Demand:
    """``num`` processes at once, each of which takes ``bundle`` on one node."""

    what: str
    num: int
    bundle: dict[str, float]
    settings: str
    """The settings that ask for it."""

    def __str__(self) -> str:
        return f"{self.num} {self.what}, each {resources_text(self.bundle)} on one node"

    @property
    def held(self) -> dict[str, float]:
        """What nobody else can have while they are there. Of a GPU that an engine and a training worker
        share the engine has all, the worker nothing."""
        rounded = {"GPU": float(round(self.bundle["GPU"]))} if "GPU" in self.bundle else {}
        return {name: self.num * each for name, each in (self.bundle | rounded).items()}


@dataclass(frozen=True)
class NodeKind:
    """Nodes that a cluster has, or may start: at most ``count`` of them."""

    name: str
    resources: dict[str, float]
    count: int

    def __str__(self) -> str:
        return f"{self.count} × {self.name} ({resources_text(self.resources)})"


def countable(resources: Resources) -> dict[str, float]:
    """CPUs, GPUs and custom resources alone, without memory (it differs from node to node), Ray's own
    marks, and what placement groups have, which Ray lists once more under other names."""
    return {
        name: value
        for name, value in resources.items()
        if name not in ("memory", "object_store_memory")
        and ":" not in name
        and not IN_GROUP.search(name)
    }


def resources_text(resources: Resources) -> str:
    """The countable resources of a node or bundle that are not zero, as text."""
    shown = sorted(countable(resources).items())
    return ", ".join(f"{value:g} {name}" for name, value in shown if value) or "nothing"


# In the layout `colocated` engines and training workers reserve half of the cores that they use: they
# never work at the same time.
SHARES = {"restart": 1.0, "colocated": 0.5, "apart": 1.0}
# Of a GPU that an engine, while it sleeps, leaves to a training worker. Ray takes what is free of a
# node's GPUs as one sum: what engines leave of up to 16 GPUs must not look like room for another one.
ENGINE_GPU, TRAINING_GPU = 0.95, 0.05


def engine_demand(engine: EngineConfig, num: int = 1) -> Demand:
    """Engines: an actor each, whose GPUs are of one node."""
    bundle: dict[str, float] = {"CPU": engine.cpus_per_engine * SHARES[engine.layout]}
    if engine.tensor_parallel_size:
        bundle["GPU"] = ENGINE_GPU if engine.shares_gpus else engine.tensor_parallel_size
    names = "engine.num_engines, engine.tensor_parallel_size, engine.cpus_per_engine"
    return Demand("vLLM engine(s)", num, bundle, names)


def training_demand(
    training: TrainingConfig, name: str, engine: EngineConfig, *, beside_engines: bool = False
) -> Demand:
    """The workers of a training, all at once; ``beside_engines`` on GPUs that these hold."""
    bundle: dict[str, float] = {"CPU": training.cpus_per_worker * SHARES[engine.layout]}
    if training.use_gpu:
        bundle["GPU"] = TRAINING_GPU if beside_engines else 1
    names = f"{name}.num_workers, {name}.cpus_per_worker"
    return Demand("training worker(s)", training.num_workers, bundle, names)


def demands_of(config: Config) -> list[Demand]:
    """The resources that each kind of stage needs at once to run at all."""
    return [
        engine_demand(config.engine, config.engine.num_engines[0]),
        *(
            training_demand(training, name, config.engine)
            for name, training in config.trainings().items()
        ),
    ]


def check_apart(config: Config, kinds: Sequence[NodeKind] | None) -> None:
    """Raises ``PsrError`` where engines and training can never stand beside each other, as the layout
    `apart` wants it."""
    if kinds is None or config.engine.layout != "apart":
        return
    engines, *trainings = demands_of(config)
    for name in ("CPU", "GPU"):
        there = sum(kind.count * kind.resources.get(name, 0) for kind in kinds)
        most = max(training.num * training.bundle.get(name, 0) for training in trainings)
        wanted = engines.num * engines.bundle.get(name, 0) + most
        if wanted > there:
            raise PsrError(
                f"engine.layout apart: engines and training ask for {wanted:g} {name} together, the "
                f"cluster can have {there:g}; take engine.layout restart, or add nodes"
            )


def places_on(resources: Resources, bundle: Resources) -> int:
    """How many times a bundle fits on an empty node."""
    places = []
    for name, value in bundle.items():
        there = resources.get(name, 0)
        if name == "GPU" and 0 < value < 1:  # each part is of one GPU
            places.append(int(there) * int(1 // value))
        elif value:
            places.append(int(there // value))
    return min(places)


def check_capacity(demands: Sequence[Demand], kinds: Sequence[NodeKind] | None) -> None:
    """Raises ``PsrError`` where present and possible nodes can never hold a demand.

    Where it is not known what may come (None), each stage is refused as it asks for room."""
    if kinds is None:
        return
    there = "; ".join(map(str, kinds)) or "no nodes"
    for demand in demands:
        places = sum(kind.count * places_on(kind.resources, demand.bundle) for kind in kinds)
        if places >= demand.num:
            continue
        if not places and demand.bundle.get("GPU", 0) > 1:
            raise PsrError(
                f"the config asks for an engine of {resources_text(demand.bundle)}; no node of this "
                f"cluster has as much (it can have: {there}), and an engine's GPUs are never spread "
                "over nodes: lower engine.tensor_parallel_size, or add nodes with more GPUs"
            )
        raise PsrError(
            f"the config asks for {demand}; this cluster can never have room for more than {places} "
            f"(it can have: {there}): lower {demand.settings}, or add nodes"
        )
