"""The actor of an engine: one vLLM engine, many task rows, Parquet shards out, each row exactly once.

Each engine writes its own shards; only counts travel back. An engine that dies or hangs ends its
process, and the pool starts another that gets its batches again (actors/pool.py, actors/ledger.py).
"""

from __future__ import annotations

import threading
import time
import uuid
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa

from actors.ledger import MAX_ROW_DEATHS, EngineKilled, EngineLedger
from actors.processes import end_this_process
from psr_ray.config import Config
from psr_ray.data.rows import TASK_SCHEMA, key_of
from psr_ray.errors import PsrError, first_line
from psr_ray.inference.engine import VllmEngine
from psr_ray.inference.tasks import TASKS, failed_row, num_tokens
from psr_ray.inference.weights import doubt, misfit, proof_of
from psr_ray.method.generation import EngineTask
from psr_ray.method.judges import judge_class
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.method.ranking import ranking_factory
from psr_ray.runs import fingerprint
from psr_ray.storage.files import Json, Row
from psr_ray.storage.locations import local_copy
from psr_ray.storage.shards import ShardWriter, finished_ids, num_rows
from psr_ray.telemetry.counters import RowMetrics
from psr_ray.telemetry.logs import StageLogger
from psr_ray.telemetry.traces import Tracer

# Columns that no row of a stage uses are not sent.
UNUSED: Row = dict.fromkeys(TASK_SCHEMA.names)


@dataclass(frozen=True)
class Loaded:
    """A model that an engine holds: where it was, and its weights' fingerprint."""

    model: str
    weights: str
    first: str | None


@dataclass(frozen=True)
class StageWork:
    """What an engine does in a stage: by which model (with M1 beside it, where ``first`` is given), and
    where its rows go."""

    model: str
    config: Config
    folder: Path
    first: str | None = None
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex)
    """A driver that starts the stage again does not get the rows of the one that died."""


class EngineWorker:
    """An actor: one vLLM engine, stage after stage; many rows of one stage at a time."""

    engine: Any = None
    work: StageWork | None = None
    mark: Json

    def __init__(self) -> None:
        self.loaded: Loaded | None = None
        self.opening = threading.Lock()
        self.told_s = 0.0  # of the engine's busy seconds
        self.num_open = 0  # batches
        self.client = ""
        self.alone = threading.Lock()
        self.ending = threading.Lock()

    def open(self, work: StageWork, client: str = "", *, replaces: bool = False) -> Json:
        """Be ready for a stage's rows: start the engine, or load its model in place. Returns the
        engine's node, processes and load time.

        ``replaces`` where this engine takes the place of one that died in this stage. Batches that are
        still open are those of a client that died: they are given again, so this process ends with
        them.
        """
        with self.opening:
            if self.num_open and (self.work, self.client) != (work, client):
                self._end("the process that waited for its rows has died")
            self.client = client
            if self.work == work:
                return self.mark
            self.config, self.folder = work.config, work.folder
            self.shards = ShardWriter(self._place, work.config.engine.rows_per_shard)
            self.metrics = RowMetrics(work.folder)
            self.log = StageLogger(work.folder)
            self.tracer = Tracer(work.folder, work.config.telemetry.num_traces)
            self.ledger = EngineLedger(work.folder)
            self.ledger.enter(self._num_finished, work.config.engine.num_engines[1], replaces)
            started, is_new = time.monotonic(), self.engine is None
            try:
                self._load(work)
            except Exception as error:
                self.log.exception("no engine could be started")
                why = error if isinstance(error, PsrError) else f"{type(error).__name__}: {error}"
                raise PsrError(
                    f"no engine could be started for {work.model}: {' '.join(str(why).split())} (the "
                    "engine's full output is in Ray's worker logs)"
                ) from error
            loading_s = time.monotonic() - started
            self.mark, self.work = self.ledger.ready(loading_s), work
            self.log.info("engine ready", extra={"loading_s": round(loading_s, 1), "new": is_new})
            if is_new:
                threading.Thread(target=self._watch, name="engine-watch", daemon=True).start()
            return self.mark

    def _load(self, work: StageWork) -> None:
        """Have the engine answer by the stage's model. Weights that are loaded in place are proven; an
        engine whose answers are others ends its process."""
        config = work.config
        judge_class(config.judge)  # the user's own code, where there is some, is on this node
        ranking_factory(config)
        model = local_copy(work.model)
        first = None if work.first is None else local_copy(work.first)
        wanted = Loaded(work.model, fingerprint(model, num_windows=256), work.first)
        held = self.loaded
        tokenizer = load_tokenizer(model, trust_remote_code=config.model.trust_remote_code)
        self.prompts = PromptBuilder(tokenizer, config.prompts)
        proof = proof_of(work.model)
        if proof is not None:
            proof = proof.within(config.model.max_length)
        if held is None:
            self.engine = VllmEngine(model, config.model, config.engine, config.seed, first)
            self.loaded = wanted
            if proof is not None:
                wrong = doubt(proof, self.engine.answers(proof), None, config.model.dtype)
                if wrong is not None:
                    self.log.warning("a fresh engine and the trainer disagree: %s", wrong)
        elif (wanted.model, wanted.weights) != (held.model, held.weights):
            if proof is None:
                self._end(f"{work.model} has no proof by which it could be loaded in place")
            if differs := misfit(local_copy(held.model), model):
                self._end(f"{work.model} does not fit a running engine: {differs}")
            try:
                before = self.engine.answers(proof)
                self.engine.load(model)
                wrong = doubt(proof, self.engine.answers(proof), before, config.model.dtype)
            except Exception as error:
                self.log.exception("weights could not be loaded in place")
                self._end(f"loading in place: {type(error).__name__}: {first_line(error)}")
            if wrong is not None:
                self._end(f"weights that were loaded in place are stale or not whole: {wrong}")
        if held is not None and wanted.first not in (None, held.first):
            self._end("a judging model is wanted that it was not started with")
        self.loaded = wanted if held is None else replace(wanted, first=held.first)

    def do(self, batch: pa.Table) -> pa.Table:
        """Do a batch of the stage's task rows; return counts when all are in shards. Called from many
        threads: other batches are in flight meanwhile."""
        with self.opening:
            self.num_open += 1
        try:
            return self._do(batch)
        finally:
            with self.opening:
                self.num_open -= 1

    def is_idle(self) -> bool:
        """Whether no batch is open."""
        return not self.num_open

    def _do(self, batch: pa.Table) -> pa.Table:
        rows: list[Row] = [UNUSED | row for row in batch.to_pylist()]
        left = rows if self.ledger.is_new(rows) else self._unfinished(rows)
        deaths = self.ledger.suspects()
        suspects = [row for row in left if key_of(row) in deaths]
        tokens = 0
        self.shards.expect(len(left))
        try:
            futures = {self._submit(row): row for row in left if key_of(row) not in deaths}
            for future in as_completed(futures):
                tokens += self._finish(futures[future], future)
            for row in suspects:
                reasons = deaths[key_of(row)]
                if len(reasons) >= MAX_ROW_DEATHS:
                    self.shards.add(key_of(row)[0], failed_row(row, EngineKilled(reasons)))
                else:
                    with self.alone:  # so that no two suspects are in flight at one death
                        tokens += self._finish(row, self._submit(row))
            self.shards.wait(map(key_of, left))
            self.tracer.flush()
        except BaseException:
            self.shards.flush()
            raise
        counts = {"rows": [len(rows)], "tokens": [tokens], "busy_s": [self._busy_s()]}
        return pa.table(counts)

    def _busy_s(self) -> float:
        """Seconds that the engine worked since this was last asked."""
        with self.opening:
            before, self.told_s = self.told_s, self.engine.busy_s
            return self.told_s - before

    def _submit(self, row: Row) -> Future[Row]:
        future: Future[Row] = self.engine.submit(self._task(row), key_of(row))
        return future

    def _task(self, row: Row) -> EngineTask[Row]:
        return self.tracer.traced(TASKS[row["task"]].run(row, self.prompts, self.config), row)

    def _finish(self, row: Row, future: Future[Row]) -> int:
        """Wait for a row's result and keep it; returns its tokens."""
        try:
            result = future.result()
        except Exception as error:
            if not self.engine.is_alive:
                self._end(str(error))
            result = failed_row(row, error)
        result["weights"] = None if self.loaded is None else self.loaded.weights[:16]
        self.shards.add(key_of(row)[0], result)
        self.metrics.add(row["task"], result)
        facts = {"problem": row["id"], "task": row["task"], "tokens": num_tokens(result)}
        if result.get("error") is None:
            self.log.info("finished", extra=facts | {"end": result.get("end")})
        else:
            self.log.warning("failed: %s", result["error"], extra=facts)
        return num_tokens(result)

    def _watch(self) -> None:
        """End the process of an engine that hangs."""
        hang_s = self.config.engine.hang_s
        while True:
            time.sleep(min(hang_s / 4, 5))
            if self.engine.stalled_s > hang_s:
                self._end(f"no token for {hang_s:g} s")

    def _end(self, reason: str) -> NoReturn:
        """End this process and its engine's, once finished rows are in shards and those in flight are in
        the ledger. Its batches go to another engine."""
        with self.ending:  # never released: the first thread ends all
            try:
                self.log.error("engine ended: %s", reason)
                self.ledger.died(reason, self.engine.suspects())
                self.shards.flush()
            finally:
                end_this_process()

    def _unfinished(self, rows: list[Row]) -> list[Row]:
        """The rows that the worker which died with this batch had not finished."""
        names = {key_of(row)[0] for row in rows}
        done = {name: finished_ids(self.folder / name) for name in names}
        return [row for row in rows if row["id"] not in done[key_of(row)[0]]]

    def _num_finished(self) -> int:
        return num_rows(self.folder.glob("*/part-*.parquet"))

    def _place(self, name: str) -> tuple[Path, pa.Schema]:
        """The folder and the columns of an output (``benchmark-solve``: those of the task ``solve``)."""
        schema = TASKS[name.rpartition("-")[2]].schema
        return self.folder / name, schema.append(pa.field("weights", pa.string()))
