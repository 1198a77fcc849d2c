"""Ray Data's actors of a stage: each passes batches on to an engine of the pool, which it holds alone.

They take no resources themselves.
"""

from __future__ import annotations

import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import ray

from actors.desk import StageWork
from actors.ledger import EngineLedger, EnginesOnlyDie
from actors.processes import DEATHS
from actors.remote import result_of, user_error
from actors.searcher import EngineWorker
from psr_ray.errors import PsrError

if TYPE_CHECKING:
    import pyarrow as pa

# Deaths of engines in a row, as they start, after which a client gives up.
MAX_STARTS = 5
# Seconds after which a client whose engine has died, and that found no room for another, shares one.
PLACE_S = 30.0
# Seconds between two looks for a free engine.
LOOK_S = 2.0
# A running engine may take as long to load another model as it took to start, this many times.
RELOADING = 3.0


class EngineClient:
    """A Ray Data actor: passes batches on to its engine, and to another where that dies."""

    def __init__(self, pool: Any, work: StageWork, worker: type[EngineWorker]) -> None:
        self.pool, self.work, self.worker = pool, work, worker
        # the same where its process is started again; what was asked of an engine before is another's
        self.actor_id = ray.get_runtime_context().get_actor_id()
        self.name = uuid.uuid4().hex
        self.replacing = threading.Lock()
        self.start_error: PsrError | None = None
        self.held: tuple[str, Any] | None = None
        self.own: tuple[str, Any, Any] | None = None  # waits for room while another one is held
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
        self._move()
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

    def _shares(self, name: str, engine: Any, opening: Any, is_replacing: bool) -> bool:
        """Whether this client goes on with another's engine: its own has died (or its node, and this
        process with it), and for a new one there is no room. Its batches would wait."""
        if not is_replacing and not ray.get_runtime_context().was_current_actor_reconstructed:
            return False
        if ray.wait([engine.place.remote()], timeout=PLACE_S)[0]:
            return False
        shared = result_of(self.pool.share.remote(str(self.work.folder), name))
        if shared is None:
            return False
        self.held, self.own = shared, (name, engine, opening)
        return True

    def _await_place(self, name: str, engine: Any) -> None:
        """Wait until an engine's process runs. Raises ``PsrError`` where there was no room for it for
        long, and there is no other engine."""
        place, timeout_s = engine.place.remote(), self.work.config.resources_timeout_s
        while not ray.wait([place], timeout=timeout_s)[0]:
            if not result_of(self.pool.has_another.remote(name)):
                raise PsrError(
                    f"{self.work.folder}: its engines have gone, and the cluster had no room for "
                    f"another one within {timeout_s:g} s (resources_timeout_s); finished rows are kept: "
                    "rerun to resume"
                )

    def _move(self) -> None:
        """Go over to this client's own engine, if it has found room meanwhile."""
        if self.own is None or not self.replacing.acquire(blocking=False):
            return
        try:
            if self.own is not None and ray.wait([self.own[2]], timeout=0)[0]:
                name, engine, opening = self.own
                self.own = None
                self.pool.ready.remote(name, result_of(opening))
                self.held = name, engine
        except DEATHS:
            return  # another one may be asked for when the shared one dies
        finally:
            self.replacing.release()

    def _connect(self, broken: str | None) -> None:
        """Get an engine that is ready; ``broken`` is the one that died."""
        with self.replacing:
            if self.held is not None and self.held[0] != broken:
                return  # another thread has replaced it
            num_deaths = 0
            while num_deaths < MAX_STARTS:
                lent = result_of(
                    self.pool.lend.remote(self.work, self.actor_id, self.worker, broken)
                )
                if lent is None:
                    self.held = result_of(self.pool.share.remote(str(self.work.folder), None))
                    if self.held is not None:
                        return
                    time.sleep(LOOK_S)  # they have died between the two calls
                    continue
                name, engine, took_s = lent
                most_s = None
                if took_s is not None:
                    most_s = max(self.work.config.engine.hang_s, RELOADING * took_s)
                opening = engine.open.remote(self.work, self.name, replaces=broken is not None)
                if took_s is None and self._shares(name, engine, opening, broken is not None):
                    return
                try:
                    if took_s is None:
                        self._await_place(name, engine)
                    mark = result_of(opening, timeout_s=most_s)
                except PsrError:
                    self.pool.give_back.remote(str(self.work.folder), name)
                    raise
                except DEATHS:
                    broken, num_deaths = name, num_deaths + 1
                    continue
                except ray.exceptions.GetTimeoutError:
                    reason = f"a running engine did not load its model within {most_s:.0f} s"
                    EngineLedger(self.work.folder).died(reason, [])
                    broken, num_deaths = name, num_deaths + 1
                    continue
                self.pool.ready.remote(name, mark)
                self.held = name, engine
                return
            raise EnginesOnlyDie(
                f"{self.work.folder}: {MAX_STARTS} engines died in a row as they started (out of "
                "memory? Ray's worker logs say more); finished rows are kept: rerun to resume"
            )
