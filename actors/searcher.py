"""The actor of an engine: one vLLM engine, many task rows, Parquet shards out, each row exactly once.

Each engine writes its own shards; only counts travel back. An engine that dies or hangs ends its
process, and Ray Data starts another and hands its batches out again (actors/ledger.py).
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, as_completed
from pathlib import Path

import pyarrow as pa

from actors.ledger import MAX_ROW_DEATHS, EngineKilled, EngineLedger, EnginesOnlyDie
from actors.processes import end_this_process
from psr_ray.config import Config
from psr_ray.data.rows import TASK_SCHEMA, key_of
from psr_ray.errors import PsrError
from psr_ray.inference.engine import VllmEngine
from psr_ray.inference.tasks import TASKS, failed_row, num_tokens
from psr_ray.method.generation import EngineTask
from psr_ray.method.judges import judge_class
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.method.ranking import ranking_factory
from psr_ray.storage.files import Row
from psr_ray.storage.locations import local_copy
from psr_ray.storage.shards import ShardWriter, finished_ids, num_rows
from psr_ray.telemetry.counters import RowMetrics
from psr_ray.telemetry.logs import StageLogger
from psr_ray.telemetry.traces import Tracer

# Columns that no row of a stage uses are not sent.
UNUSED: Row = dict.fromkeys(TASK_SCHEMA.names)


class EngineWorker:
    """A Ray Data actor: one vLLM engine (with M1 beside it, where ``first`` is given), many rows."""

    def __init__(self, model: str, config: Config, folder: Path, first: str | None) -> None:
        self.config = config
        self.folder = folder
        self.shards = ShardWriter(self._place, config.engine.rows_per_shard)
        self.metrics = RowMetrics(folder)
        self.log = StageLogger(folder)
        self.tracer = Tracer(folder, config.telemetry.num_traces)
        self.ledger = EngineLedger(folder)
        self.alone = threading.Lock()
        self.ending = threading.Lock()
        self.start_error: PsrError | None = None
        started = time.monotonic()
        try:
            self.ledger.enter(self._num_finished, config.engine.num_engines[1])
            self._start_engine(model, first)
            loading_s = time.monotonic() - started
            self.ledger.ready(loading_s)
        except Exception as error:
            self.log.exception("no engine could be started")
            if self.ledger.engines() and not isinstance(error, EnginesOnlyDie):
                raise  # other engines work: Ray Data tries again, and gives up after a few
            # raised by the first batch: Ray would pass on text alone from here
            why = error if isinstance(error, PsrError) else f"{type(error).__name__}: {error}"
            self.start_error = PsrError(
                f"no engine could be started for {model}: {' '.join(str(why).split())} (the engine's "
                "full output is in Ray's worker logs)"
            )
            return
        self.log.info("engine ready", extra={"loading_s": round(loading_s, 1)})
        threading.Thread(target=self._watch, name="engine-watch", daemon=True).start()

    def _start_engine(self, model: str, first: str | None) -> None:
        config = self.config
        judge_class(config.judge)  # the user's own code, where there is some, is on this node
        ranking_factory(config)
        model = local_copy(model)
        first = None if first is None else local_copy(first)
        tokenizer = load_tokenizer(model, trust_remote_code=config.model.trust_remote_code)
        self.prompts = PromptBuilder(tokenizer, config.prompts)
        self.engine = VllmEngine(model, config.model, config.engine, config.seed, first)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Do a batch of task rows; return counts when all are in shards. Ray Data calls this from many
        threads: other batches are in flight meanwhile."""
        if self.start_error is not None:
            raise self.start_error
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
        return pa.table({"rows": [len(rows)], "tokens": [tokens]})

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

    def _end(self, reason: str) -> None:
        """End this process and its engine's, once finished rows are in shards and those in flight are in
        the ledger. Ray Data gives its batches to another worker."""
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
        return self.folder / name, TASKS[name.rpartition("-")[2]].schema
