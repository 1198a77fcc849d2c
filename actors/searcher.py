"""The actor of an engine: one vLLM engine, many task rows, Parquet shards out, each row exactly once.

Each engine writes its own shards; only counts travel back. It may work for two stages at once that need
the same model. An engine that dies or hangs ends its process, and the pool starts another that gets its
batches again (actors/pool.py, actors/ledger.py).
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import pyarrow as pa
import ray

from actors.desk import Desk, StageWork
from actors.ledger import MAX_ROW_DEATHS, EngineKilled
from actors.processes import end_this_process
from psr_ray.data.rows import TASK_SCHEMA, key_of
from psr_ray.errors import PsrError, first_line
from psr_ray.inference.engine import VllmEngine
from psr_ray.inference.tasks import TASKS, failed_row, num_tokens
from psr_ray.inference.weights import doubt, misfit, proof_of, shape_of
from psr_ray.method.generation import EngineTask
from psr_ray.method.judges import judge_class
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.method.ranking import ranking_factory
from psr_ray.runs import fingerprint
from psr_ray.storage.files import Json, Row
from psr_ray.storage.lease import start_of
from psr_ray.storage.locations import local_copy

# Columns that no row of a stage uses are not sent.
UNUSED: Row = dict.fromkeys(TASK_SCHEMA.names)


@dataclass(frozen=True)
class Loaded:
    """A model that an engine holds: where it was (its folder may be gone), the last driver that asked
    for it, its weights' fingerprint and their shape, its tokenizer."""

    model: str
    attempt: str
    weights: str
    judge: str | None
    shape: Json
    tokenizer: Any


class EngineWorker:
    """An actor: one vLLM engine, stage after stage, or two stages at once; many rows at a time."""

    engine: Any = None
    is_asleep = False

    def __init__(self) -> None:
        self.loaded: Loaded | None = None
        self.desks: dict[str, Desk] = {}
        self.opening = threading.Lock()
        self.told_s = 0.0  # of the engine's busy seconds
        self.alone = threading.Lock()
        self.ending = threading.Lock()

    def open(self, work: StageWork, client: str = "", *, replaces: bool = False) -> Json:
        """Be ready for a stage's rows: start the engine, or load its model in place. Returns the
        engine's node, processes and load time.

        ``replaces`` where this engine takes the place of one that died in this stage. Where batches are
        still open of a client that has died, this process ends: they are given again.
        """
        with self.opening:
            if self.is_asleep:
                self._wake()
            desk = self.desks.get(str(work.folder))
            if any(other.is_left_by(work, client) for other in self.desks.values()):
                self._end_left()
            if desk is not None and desk.work == work:
                desk.client = client
                return desk.mark
            desk = Desk(work, client)
            desk.ledger.enter(desk.num_finished, work.config.engine.num_engines[1], replaces)
            started, is_new = time.monotonic(), self.engine is None
            try:
                self._load(desk)
            except Exception as error:
                self.desks.pop(str(work.folder), None)
                desk.log.exception("no engine could be started")
                why = error if isinstance(error, PsrError) else f"{type(error).__name__}: {error}"
                raise PsrError(
                    f"no engine could be started for {work.model}: {' '.join(str(why).split())} (the "
                    "engine's full output is in Ray's worker logs)"
                ) from error
            loading_s = time.monotonic() - started
            desk.mark = desk.ledger.ready(loading_s, desk.doubt)
            self.desks[str(work.folder)] = desk
            desk.log.info("engine ready", extra={"loading_s": round(loading_s, 1), "new": is_new})
            if is_new:
                hang_s = work.config.engine.hang_s
                threading.Thread(target=self._watch, args=(hang_s,), daemon=True).start()
            return desk.mark

    def _load(self, desk: Desk) -> None:
        """Have the engine answer by the stage's model."""
        work, config, held = desk.work, desk.config, self.loaded
        judge_class(config.judge)  # the user's own code, where there is some, is on this node
        ranking_factory(config)
        if held is None or (work.model, work.attempt) != (held.model, held.attempt):
            held = self.loaded = self._have(desk, held)
        if work.judge not in (None, held.judge):
            self._end("a judging model is wanted that it was not started with")
        desk.prompts = PromptBuilder(held.tokenizer, config.prompts)

    def _have(self, desk: Desk, held: Loaded | None) -> Loaded:
        """Start the engine, or load another model in place, or see that the model is still the same for
        a driver that has not asked for it yet. Weights that are loaded in place are proven; an engine
        whose answers are others ends its process."""
        work, config = desk.work, desk.config
        model = local_copy(work.model)
        judge = None if work.judge is None else local_copy(work.judge)
        weights, shape = fingerprint(model), shape_of(model)
        tokenizer = load_tokenizer(model, trust_remote_code=config.model.trust_remote_code)
        wanted = Loaded(work.model, work.attempt, weights, work.judge, shape, tokenizer)
        proof = proof_of(work.model)
        if proof is not None:
            proof = proof.within(config.model.max_length)
        if held is None:
            self.engine = VllmEngine(model, config.model, config.engine, config.seed, judge)
            self.loaded = wanted
            if proof is not None:
                answers = self.engine.models.answers(proof)
                desk.doubt = doubt(proof, answers, None, config.model.dtype)
                if desk.doubt is not None:
                    desk.log.warning("a fresh engine and the trainer disagree: %s", desk.doubt)
        elif (wanted.model, wanted.weights) != (held.model, held.weights):
            self.desks = {str(work.folder): desk}
            if proof is None:
                self._end(f"{work.model} has no proof by which it could be loaded in place")
            if differs := misfit(held.shape, shape):
                self._end(f"{work.model} does not fit a running engine: {differs}")
            try:
                before = self.engine.models.answers(proof)
                self.engine.models.load(model)
                wrong = doubt(proof, self.engine.models.answers(proof), before, config.model.dtype)
            except Exception as error:
                desk.log.exception("weights could not be loaded in place")
                self._end(f"loading in place: {type(error).__name__}: {first_line(error)}")
            if wrong is not None:
                self._end(f"weights that were loaded in place are stale or not whole: {wrong}")
        return wanted if held is None else replace(wanted, judge=held.judge)

    def do(self, stage: str, batch: pa.Table) -> pa.Table:
        """Do a batch of the task rows of a stage (its folder); return counts when all are in shards.
        Called from many threads: other batches are in flight meanwhile."""
        desk = self.desks[stage]
        with self.opening:
            desk.num_open += 1
        try:
            return self._do(desk, batch)
        finally:
            with self.opening:
                desk.num_open -= 1

    def place(self) -> Json:
        """This process, as long as its engine is not ready."""
        node = ray.get_runtime_context().get_node_id()
        return {"node": node, "processes": [[os.getpid(), start_of(os.getpid())]]}

    def sleep(self) -> None:
        """Give the GPU's memory to a training, until a stage is opened."""
        with self.opening:
            if self.engine is not None and not self.is_asleep:
                self.engine.models.sleep()
                self.is_asleep = True

    def _wake(self) -> None:
        try:
            self.engine.models.wake()
        except Exception as error:
            self._end(f"it did not wake: {type(error).__name__}: {first_line(error)}", blame=False)
        self.is_asleep = False

    def is_idle(self) -> bool:
        """Whether no batch is open."""
        return not any(desk.num_open for desk in self.desks.values())

    def leave(self, stage: str | None = None) -> None:
        """A stage has ended (or every one): an engine that still has rows of it, of a client that has
        died, ends its process."""
        with self.opening:
            left = [desk for name, desk in self.desks.items() if stage in (None, name)]
            if any(desk.num_open for desk in left):
                self._end_left()
            for desk in left:
                del self.desks[str(desk.folder)]

    def _do(self, desk: Desk, batch: pa.Table) -> pa.Table:
        rows: list[Row] = [UNUSED | row for row in batch.to_pylist()]
        left = rows if desk.ledger.is_new(rows) else desk.unfinished(rows)
        deaths = desk.ledger.suspects()
        suspects = [row for row in left if key_of(row) in deaths]
        tokens = 0
        desk.shards.expect(len(left))
        try:
            futures = {self._submit(desk, row): row for row in left if key_of(row) not in deaths}
            for future in as_completed(futures):
                tokens += self._finish(desk, futures[future], future)
            for row in suspects:
                reasons = deaths[key_of(row)]
                if len(reasons) >= MAX_ROW_DEATHS:
                    desk.shards.add(key_of(row)[0], failed_row(row, EngineKilled(reasons)))
                else:
                    with self.alone:  # so that no two suspects are in flight at one death
                        tokens += self._finish(desk, row, self._submit(desk, row))
            desk.shards.wait(map(key_of, left))
            desk.tracer.flush()
        except BaseException:
            desk.shards.flush()
            raise
        counts = {"rows": [len(rows)], "tokens": [tokens], "busy_s": [self._busy_s()]}
        return pa.table(counts)

    def _busy_s(self) -> float:
        """Seconds that the engine worked since this was last asked."""
        with self.opening:
            before, self.told_s = self.told_s, self.engine.busy_s
            return self.told_s - before

    def _submit(self, desk: Desk, row: Row) -> Future[Row]:
        name = (str(desk.folder), key_of(row))
        future: Future[Row] = self.engine.submit(self._task(desk, row), name)
        return future

    def _task(self, desk: Desk, row: Row) -> EngineTask[Row]:
        return desk.tracer.traced(TASKS[row["task"]].run(row, desk.prompts, desk.config), row)

    def _finish(self, desk: Desk, row: Row, future: Future[Row]) -> int:
        """Wait for a row's result and keep it; returns its tokens."""
        try:
            result = future.result()
        except Exception as error:
            if not self.engine.is_alive:
                self._end(str(error))
            result = failed_row(row, error)
        result["weights"] = None if self.loaded is None else self.loaded.weights[:16]
        desk.shards.add(key_of(row)[0], result)
        desk.metrics.add(row["task"], result)
        facts = {"problem": row["id"], "task": row["task"], "tokens": num_tokens(result)}
        if result.get("error") is None:
            desk.log.info("finished", extra=facts | {"end": result.get("end")})
        else:
            desk.log.warning("failed: %s", result["error"], extra=facts)
        return num_tokens(result)

    def _watch(self, hang_s: float) -> None:
        """End the process of an engine that hangs."""
        while True:
            time.sleep(min(hang_s / 4, 5))
            if self.engine.stalled_s > hang_s:
                self._end(f"no token for {hang_s:g} s")

    def _end_left(self) -> NoReturn:
        """End this process: the client of its open batches has died. No row is to blame."""
        self._end("the process that waited for its rows has died", blame=False)

    def _end(self, reason: str, *, blame: bool = True) -> NoReturn:
        """End this process and its engine's, once finished rows are in shards and those in flight are in
        the ledger. Its batches go to another engine."""
        with self.ending:  # never released: the first thread ends all
            try:
                suspects, desks = self.engine.suspects() if blame else (), list(self.desks.values())
                for desk in [each for each in desks if each.num_open] or desks[-1:]:
                    desk.log.error("engine ended: %s", reason)
                    in_flight = [key for stage, key in suspects if stage == str(desk.folder)]
                    desk.ledger.died(reason, in_flight)
                    desk.shards.flush()
            finally:
                end_this_process()
