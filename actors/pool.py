"""The engines of a run: started once, kept from stage to stage, replaced where one dies.

The pool is an actor of the command's, so that engines survive the drivers. Clients (actors/client.py)
hold one engine each for a stage.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.desk import StageWork
from actors.held import Held
from actors.placement import remove_room, room_for
from actors.processes import Process, alive_nodes, end_processes, on_nodes
from actors.remote import result_of, succeeded, this_node
from actors.searcher import EngineWorker
from psr_ray.cluster.capacity import Demand, engine_demand
from psr_ray.errors import PsrError
from psr_ray.inference.vllm_api import engine_environment
from psr_ray.storage.files import Json

# Batches that an engine works on at once, at most; more wait at it.
MAX_BATCHES = 64
# Seconds that an engine has to say whether it is idle.
ANSWER_S = 5.0
# Seconds that engines have to fall asleep; weights go to the node's memory.
SLEEP_S = 120.0


@dataclass
class Engine:
    """An engine of the pool: its actor, the judge that it has beside the policy, its answer where its
    process runs; once it has loaded, its node and processes, and the seconds that it took to start."""

    actor: Any
    judge: str | None
    place: Any = None
    in_room: bool = False
    mark: Json | None = None
    took_s: float | None = None


class EnginePool:
    """An actor: starts engines, lends them to clients, ends them; its room has this name."""

    def __init__(self, room_name: str | None = None) -> None:
        self.room_name = room_name
        if room_name is not None:
            remove_room(room_name)  # of this pool's process that died
        self.engines: dict[str, Engine] = {}
        self.kept_room: Any = None  # a placement group for one engine
        self.dropped: list[Json] = []  # marks of engines whose processes may not have ended
        self.leases: dict[tuple[str, str], str] = {}
        self.num_started: dict[str, int] = {}
        self.attempt = ""
        self.is_closing = False
        self.held = Held()

    def begin(self, stage: str, attempt: str, judge: str | None = None) -> int:
        """A stage begins, perhaps once more, by a driver (``attempt``). Engines that work for another
        driver, which has died, end, and those without the judge that the stage needs beside the policy.
        Returns how many engines there are."""
        self.finish(stage)
        if attempt != self.attempt:
            self.attempt, self.leases = attempt, {}
            self._end_left([name for name in self._started() if not self._is_idle(name)])
        if judge is not None:
            self._end([name for name, engine in self.engines.items() if engine.judge != judge])
        return len(self.engines)

    def room(self, demand: Demand) -> Any:
        """Room for an engine, perhaps not there yet: kept from before the first one starts until engines
        end."""
        if self.kept_room is None:
            self.kept_room = room_for(self.room_name or "engines", demand, "STRICT_PACK")
        return self.kept_room

    def finish(self, stage: str) -> None:
        """A stage has ended, or its driver has died: its engines are free. Those that it asked for and
        that never got a place end, and those that still have rows of it, of a client that has died."""
        lent = {name for key, name in self.leases.items() if key[0] == stage}
        self.leases = {key: name for key, name in self.leases.items() if key[0] != stage}
        for name in lent - set(self._started()) - set(self.leases.values()):
            self._drop(name)
        for name in lent & set(self.engines):
            self.engines[name].actor.leave.remote(stage)

    def lend(
        self, work: StageWork, client: str, worker: type[EngineWorker], broken: str | None
    ) -> tuple[str, Any, float | None] | None:
        """An engine for a client of a stage: its own, a free one, or a new one; above the config's
        number one that another client left idle, or that still loads. ``broken`` names the engine that
        it had and that died. None where all are at work for others (``share``).

        Returns its name, its handle, and the seconds that it took to start, where it runs."""
        stage, most = str(work.folder), work.config.engine.num_engines[1]
        # this process may have taken the place of the one that saw the driver begin
        self.attempt = self.attempt or work.attempt
        if broken is not None:
            self._drop(broken)
        if self.is_closing:
            raise PsrError("the run is ending")
        held = self.leases.get((stage, client))
        if held not in self.engines:
            holders = [name for key, name in self.leases.items() if key[0] == stage]
            free = [name for name in self.engines if name not in holders]
            if not free and len(self.engines) >= most:
                # Ray Data has ended a client and starts another
                started = self._started()
                free = [name for name in started if self._is_idle(name)]
                if started and not free:
                    return None
                free = free or list(self.engines)
            held = free[0] if free else self._start(work, worker)
            self.leases[stage, client] = held
        return held, self.engines[held].actor, self.engines[held].took_s

    def share(self, stage: str, name: str | None) -> tuple[str, Any] | None:
        """A running engine that another client of a stage holds, for one whose own (``name``) finds no
        room, or that has none; None where there is none."""
        held = {other for key, other in self.leases.items() if key[0] == stage} - {name}
        running = sorted(held & set(self._started()))
        if not running:
            return None
        chosen = random.choice(running)
        return chosen, self.engines[chosen].actor

    def ready(self, name: str, mark: Json) -> None:
        """An engine has started, or loaded another model: its node and processes."""
        engine = self.engines.get(name)
        if engine is None:
            self.dropped.append(mark)
        else:
            engine.mark = mark
            engine.took_s = engine.took_s or mark["loading_s"]

    def has_another(self, name: str) -> bool:
        """Whether the process of another engine was started."""
        return any(succeeded(each.place) for other, each in self.engines.items() if other != name)

    def give_back(self, stage: str, name: str) -> None:
        """An engine could not start, or one that runs could not load the stage's model: that one may
        still work for another stage."""
        self.leases = {
            key: held for key, held in self.leases.items() if (key[0], held) != (stage, name)
        }
        if name not in self.leases.values():
            self._drop(name)

    def close(self) -> None:
        """End all engines; no more are lent."""
        self.is_closing = True
        self._end(list(self.engines))

    def rest(self, layout: str, num: int) -> None:
        """A training begins: engines end or, in other layouts, ``num`` of them stay, and sleep where
        they are in its place. One that cannot sleep ends."""
        names = list(self.engines)
        kept = names[: 0 if layout == "restart" else num]
        if layout == "colocated" and kept:
            asleep = [self.engines[name].actor.sleep.remote() for name in kept]
            ray.wait(asleep, num_returns=len(asleep), timeout=SLEEP_S)
            kept = [name for name, answer in zip(kept, asleep, strict=True) if succeeded(answer)]
        self._end([name for name in names if name not in kept])

    def beside(self, num: int) -> tuple[str, ...]:
        """The nodes of the engines that sleep, one for each of ``num`` training workers that take their
        GPUs. Where there are fewer all engines end: the workers need GPUs of their own."""
        marks, alive = [engine.mark for engine in self.engines.values()], alive_nodes()
        nodes = [mark["node"] for mark in marks if mark is not None and mark["node"] in alive]
        if len(nodes) < num:
            self._end(list(self.engines))
            nodes = []
        return tuple(sorted(nodes))

    def starts(self, stage: str) -> int:
        """How many engines a stage has started so far."""
        return self.num_started.get(stage, 0)

    def pop_held(self) -> dict[str, float]:
        """What engines have held since this was asked last: resources times seconds. One that has died
        counts until it is replaced."""
        return self.held.pop()

    def _start(self, work: StageWork, worker: type[EngineWorker]) -> str:
        demand = engine_demand(work.config.engine)
        in_room = self.kept_room is not None and not self._uses_room()
        actor: Any = ray.remote(worker).options(
            scheduling_strategy=(
                PlacementGroupSchedulingStrategy(self.kept_room, 0) if in_room else "DEFAULT"
            ),
            num_cpus=demand.bundle["CPU"],
            num_gpus=demand.bundle.get("GPU", 0),
            max_concurrency=MAX_BATCHES,
            max_restarts=0,
            # Ray sets OMP_NUM_THREADS to the cores that are reserved, and OpenMP reads it once
            runtime_env={"env_vars": engine_environment(work.config.engine)},
        )
        engine = actor.remote()
        name = uuid.uuid4().hex[:8]
        place = engine.place.remote()
        self.engines[name] = Engine(engine, work.judge, place, in_room)
        if in_room and self.kept_room.wait(0):  # it waits for the process
            self.held.take(name, demand.held)
        place.future().add_done_callback(lambda found: self._placed(name, demand.held, found))
        stage = str(work.folder)
        self.num_started[stage] = self.starts(stage) + 1
        return name

    def _end(self, names: Sequence[str]) -> None:
        """End engines, and wait until their processes and those of engines that died have ended,
        wherever they ran: their GPUs are then free."""
        for name in names:
            self._drop(name)
        by_node: dict[str, list[Process]] = {}
        dropped, self.dropped = self.dropped, []
        for mark in dropped:
            by_node.setdefault(mark["node"], []).extend(map(tuple, mark["processes"]))
        on_nodes(end_processes, by_node)
        if self.kept_room is not None and not self._uses_room():
            remove_placement_group(self.kept_room)
            self.kept_room = None

    def _end_left(self, names: Sequence[str]) -> None:
        """End engines whose clients have died, all at once; they store finished rows first."""
        pending = [self.engines[name].actor.leave.remote() for name in names]
        if pending:
            ray.wait(pending, num_returns=len(pending), timeout=ANSWER_S)
        self._end(names)

    def _is_idle(self, name: str) -> bool:
        try:
            return bool(ray.get(self.engines[name].actor.is_idle.remote(), timeout=ANSWER_S))
        except ray.exceptions.RayError:
            return False

    def _uses_room(self) -> bool:
        return any(engine.in_room for engine in self.engines.values())

    def _started(self) -> list[str]:
        return [name for name, engine in self.engines.items() if engine.mark is not None]

    def _placed(self, name: str, held: dict[str, float], found: Future[Json]) -> None:
        """An engine's process is there, or its actor has died before."""
        if found.exception() is None:
            self.held.take(name, held)
        if name not in self.engines:  # dropped meanwhile
            self.held.leave(name)

    def _drop(self, name: str) -> None:
        engine = self.engines.pop(name, None)
        self.held.leave(name)
        if engine is not None:
            ray.kill(engine.actor)
            if engine.mark is None:  # it is still loading: its children end with it
                engine.mark = ray.get(engine.place) if succeeded(engine.place) else None
            self.dropped += [engine.mark] if engine.mark is not None else []
        self.leases = {key: held for key, held in self.leases.items() if held != name}


@contextmanager
def engine_pool(owner: str, **options: Any) -> Iterator[Any]:
    """A pool on this node for a run or stage, with these options of its actor; its engines end with the
    block. An exception does not wait for them.

    Where its process dies its engines die, and it starts again without any.
    """
    actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(EnginePool)
    pool = actor.options(scheduling_strategy=this_node(), **options).remote(owner)
    try:
        yield pool
        result_of(pool.close.remote())
    finally:  # a command that was told to stop has three seconds
        with suppress(ray.exceptions.RayError):
            ray.kill(pool)
            remove_room(owner)
