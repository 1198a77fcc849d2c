"""The engines of a run: started once, kept from stage to stage, replaced where one dies.

Ray Data streams a stage's batches to *clients*, which take no resources; each holds one engine of the
pool for the stage. The pool is an actor of the command's, so that engines survive the drivers.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

from actors.desk import StageWork
from actors.ledger import EngineLedger, EnginesOnlyDie
from actors.processes import Process, end_processes, on_nodes
from actors.remote import result_of, this_node, user_error
from actors.searcher import EngineWorker
from psr_ray.cluster.capacity import engine_demand
from psr_ray.config import EngineConfig
from psr_ray.errors import PsrError
from psr_ray.storage.files import Json

if TYPE_CHECKING:
    import pyarrow as pa

# Batches that an engine works on at once, at most; more wait at it.
MAX_BATCHES = 64
# Seconds that an engine has to say whether it is idle.
ANSWER_S = 5.0
# Deaths of engines in a row, as they start, after which a client gives up.
MAX_STARTS = 5
# What a call to an engine whose process has died raises.
DEATHS = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError)
# A running engine may take as long to load another model as it took to start, this many times.
RELOADING = 3.0


@dataclass
class Engine:
    """An engine of the pool: its actor, the M1 that it has beside the policy, its answer where its
    process runs; once it has loaded, its node and processes, and the seconds that it took to start."""

    actor: Any
    first: str | None
    place: Any = None
    mark: Json | None = None
    took_s: float | None = None


class EnginePool:
    """An actor: starts engines, lends them to clients, ends them."""

    def __init__(self) -> None:
        self.engines: dict[str, Engine] = {}
        self.dropped: list[Json] = []  # marks of engines whose processes may not have ended
        self.leases: dict[tuple[str, str], str] = {}
        self.num_started: dict[str, int] = {}
        self.attempt = ""
        self.is_closing = False

    def begin(self, stage: str, attempt: str, first: str | None = None) -> int:
        """A stage begins, perhaps once more, by a driver (``attempt``). Engines that work for another
        driver, which has died, end, and those without the M1 that the stage needs beside the policy.
        Returns how many engines there are."""
        self.finish(stage)
        if attempt != self.attempt:
            self.attempt, self.leases = attempt, {}
            self._end_left([name for name in self._started() if not self._is_idle(name)])
        if first is not None:
            self._end([name for name, engine in self.engines.items() if engine.first != first])
        return len(self.engines)

    def finish(self, stage: str) -> None:
        """A stage has ended, or its driver has died: its engines are free. Those that it asked for and
        that never got a place end, and those that still have rows of it, of a client that has died."""
        lent = {name for key, name in self.leases.items() if key[0] == stage}
        self.leases = {key: name for key, name in self.leases.items() if key[0] != stage}
        for name in lent - set(self._started()) - set(self.leases.values()):
            self._drop(name)
        for name in lent & set(self.engines):
            self._leave(name, stage)

    def lend(
        self, work: StageWork, client: str, worker: type[EngineWorker], broken: str | None
    ) -> tuple[str, Any, float | None]:
        """An engine for a client of a stage: its own, a free one, or a new one; above the config's
        number one that others hold, too. ``broken`` names the engine that it had and that died.

        Returns its name, its handle, and the seconds that it took to start, where it runs."""
        stage, most = str(work.folder), work.config.engine.num_engines[1]
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
                free = [name for name in self.engines if self._is_idle(name)] or list(self.engines)
            held = free[0] if free else self._start(work, worker)
            self.leases[stage, client] = held
        return held, self.engines[held].actor, self.engines[held].took_s

    def ready(self, name: str, mark: Json) -> None:
        """An engine has started, or loaded another model: its node and processes."""
        engine = self.engines.get(name)
        if engine is None:
            self.dropped.append(mark)
        else:
            engine.mark = mark
            engine.took_s = engine.took_s or mark["loading_s"]

    def close(self) -> None:
        """End all engines; no more are lent."""
        self.is_closing = True
        self._end(list(self.engines))

    def rest(self, layout: str, num: int) -> None:
        """A training begins: engines end or, in other layouts, ``num`` of them stay."""
        self._end(list(self.engines)[0 if layout == "restart" else num :])

    def starts(self, stage: str) -> int:
        """How many engines a stage has started so far."""
        return self.num_started.get(stage, 0)

    def _start(self, work: StageWork, worker: type[EngineWorker]) -> str:
        bundle = dict(engine_demand(work.config.engine).bundle)
        actor: Any = ray.remote(worker).options(
            num_cpus=bundle.pop("CPU"),
            num_gpus=bundle.pop("GPU", 0),
            max_concurrency=MAX_BATCHES,
            max_restarts=0,
        )
        name = uuid.uuid4().hex[:8]
        engine = actor.remote()
        self.engines[name] = Engine(engine, work.first, engine.place.remote())
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

    def _end_left(self, names: Sequence[str]) -> None:
        """End engines whose clients have died, all at once; they store finished rows first."""
        pending = [self.engines[name].actor.leave.remote() for name in names]
        if pending:
            ray.wait(pending, num_returns=len(pending), timeout=ANSWER_S)
        self._end(names)

    def _leave(self, name: str, stage: str) -> None:
        self.engines[name].actor.leave.remote(stage)

    def _is_idle(self, name: str) -> bool:
        try:
            return bool(ray.get(self.engines[name].actor.is_idle.remote(), timeout=ANSWER_S))
        except ray.exceptions.RayError:
            return False

    def _started(self) -> list[str]:
        return [name for name, engine in self.engines.items() if engine.mark is not None]

    def _drop(self, name: str) -> None:
        engine = self.engines.pop(name, None)
        if engine is not None:
            ray.kill(engine.actor)
            if engine.mark is None:  # it is still loading: its children end with it
                engine.mark = answer_of(engine.place)
            self.dropped += [engine.mark] if engine.mark is not None else []
        self.leases = {key: held for key, held in self.leases.items() if held != name}


def answer_of(pending: Any) -> Json | None:
    """What an actor's method returned, if it has by now."""
    if not ray.wait([pending], timeout=0)[0]:
        return None
    with suppress(ray.exceptions.RayError):
        found: Json = ray.get(pending)
        return found
    return None


class EngineClient:
    """A Ray Data actor: passes batches on to its engine, and to another where that dies."""

    def __init__(self, pool: Any, work: StageWork, worker: type[EngineWorker]) -> None:
        self.pool, self.work, self.worker = pool, work, worker
        self.name = uuid.uuid4().hex
        self.replacing = threading.Lock()
        self.start_error: PsrError | None = None
        self.held: tuple[str, Any] | None = None
        try:
            self._connect(None)
        except PsrError as error:
            if EngineLedger(work.folder).engines() and not isinstance(error, EnginesOnlyDie):
                raise  # other engines work: Ray Data tries again, and gives up after a few
            # raised by the first batch: Ray would pass on text alone from here
            self.start_error = error

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Have a batch of task rows done; returns counts. Called from many threads."""
        if self.start_error is not None:
            raise self.start_error
        while True:
            assert self.held is not None
            name, engine = self.held
            try:
                done: pa.Table = ray.get(engine.do.remote(str(self.work.folder), batch))
                return done
            except DEATHS:
                self._connect(name)
            except ray.exceptions.RayTaskError as error:  # a full disk keeps its type
                raise (user_error(error.cause) or error.cause) from error

    def _connect(self, broken: str | None) -> None:
        """Get an engine that is ready; ``broken`` is the one that died."""
        with self.replacing:
            if self.held is not None and self.held[0] != broken:
                return  # another thread has replaced it
            for _ in range(MAX_STARTS):
                name, engine, took_s = result_of(
                    self.pool.lend.remote(self.work, self.name, self.worker, broken)
                )
                most_s = None
                if took_s is not None:
                    most_s = max(self.work.config.engine.hang_s, RELOADING * took_s)
                opening = engine.open.remote(self.work, self.name, replaces=broken is not None)
                try:
                    mark = result_of(opening, timeout_s=most_s)
                except DEATHS:
                    broken = name
                    continue
                except ray.exceptions.GetTimeoutError:
                    reason = f"a running engine did not load its model within {most_s:.0f} s"
                    EngineLedger(self.work.folder).died(reason, [])
                    broken = name
                    continue
                self.pool.ready.remote(name, mark)
                self.held = name, engine
                return
            raise EnginesOnlyDie(
                f"{self.work.folder}: {MAX_STARTS} engines died in a row as they started (out of "
                "memory? Ray's worker logs say more); finished rows are kept: rerun to resume"
            )


@contextmanager
def resting(pool: Any, engine: EngineConfig) -> Iterator[None]:
    """A training runs in this block: engines end or wait, by the layout, but not for ever."""
    result_of(pool.rest.remote(engine.layout, engine.num_engines[0]))
    giving_back = threading.Timer(engine.max_idle_s, pool.rest.remote, ("restart", 0))
    giving_back.daemon = True
    giving_back.start()
    try:
        yield
    finally:
        giving_back.cancel()


@contextmanager
def engine_pool(**options: Any) -> Iterator[Any]:
    """A pool on this node, with these options of its actor; its engines end with the block. An
    exception does not wait for them.

    Where its process dies its engines die, and it starts again without any.
    """
    actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(EnginePool)
    pool = actor.options(scheduling_strategy=this_node(), **options).remote()
    try:
        yield pool
        result_of(pool.close.remote())
    finally:  # a command that was told to stop has three seconds
        with suppress(ray.exceptions.RayError):
            ray.kill(pool)
