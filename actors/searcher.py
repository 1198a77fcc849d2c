"""The actor of a search: one vLLM engine, many task rows, Parquet shards out, exactly once.

Each engine writes its own shards; only counts travel back. An engine that dies or hangs takes its
process with it, for Ray Data to start another and give out its batches again.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from concurrent.futures import Future, as_completed
from pathlib import Path

import psutil
import pyarrow as pa
import ray

from actors.placement import COMMAND, ENGINES, mark_engine
from psr_ray.cluster.nodes import check_sees, check_versions, node_name
from psr_ray.config import Config
from psr_ray.data.rows import TASK_SCHEMA
from psr_ray.inference.deaths import MAX_ROW_DEATHS, Deaths, EngineKilled
from psr_ray.inference.engine import VllmEngine
from psr_ray.inference.guard import guard_children
from psr_ray.inference.tasks import SCHEMAS, TASKS, failed_row, num_tokens, output_folder
from psr_ray.method.generation import EngineTask
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.storage.files import Row, read_json, write_text
from psr_ray.storage.locations import local_copy
from psr_ray.storage.shards import Key, ShardWriter, finished_ids
from psr_ray.telemetry.counters import RowMetrics
from psr_ray.telemetry.logs import StageLogger
from psr_ray.telemetry.traces import Tracer

# Marks of the batches given out, in a stage's folder: one that is given out again was a dead worker's.
BATCHES = "batches"

# Columns that no row of a stage uses are not sent.
UNUSED: Row = dict.fromkeys(TASK_SCHEMA.names)


def key_of(row: Row) -> Key:
    """What a row is known by within its stage."""
    return row["task"], row["id"]


class EngineWorker:
    """A Ray Data actor: one vLLM engine (with M1 beside it, where ``first`` is given), many rows."""

    def __init__(self, model: str, config: Config, folder: Path, first: str | None) -> None:
        self.config = config
        self.folder = folder
        self.shards = ShardWriter(self._place, config.engine.rows_per_shard)
        self.metrics = RowMetrics(folder)
        self.log = StageLogger(folder)
        self.tracer = Tracer(folder, config.telemetry.num_traces)
        self.deaths = Deaths(folder)
        self.alone = threading.Lock()
        self.ending = threading.Lock()
        again = False
        if ray.is_initialized():
            context = ray.get_runtime_context()
            again = context.get_actor_id() is not None and context.was_current_actor_reconstructed
        try:
            if again or self.deaths.folder.exists():
                num_finished = sum(len(finished_ids(self._place(task)[0])) for task in SCHEMAS)
                self.deaths.started(num_finished, config.engine.num_engines[1], again=again)
            self._start_engine(model, first)
        except Exception as error:
            self.deaths.refused(error)
            raise
        threading.Thread(target=self._watch, name="engine-watch", daemon=True).start()

    def _start_engine(self, model: str, first: str | None) -> None:
        config, started = self.config, time.monotonic()
        self._check_node()
        model = local_copy(model)
        first = None if first is None else local_copy(first)
        tokenizer = load_tokenizer(model, trust_remote_code=config.model.trust_remote_code)
        self.prompts = PromptBuilder(tokenizer, config.prompts)
        self.engine = VllmEngine(model, config.model, config.engine, config.seed, first)
        self.guard = guard_children()  # kept open as long as this process lives
        loading_s = time.monotonic() - started
        mark_engine(self.folder, loading_s)
        self.log.info("engine ready", extra={"loading_s": round(loading_s, 1)})

    def _check_node(self) -> None:
        command = self.folder / ENGINES / COMMAND
        check_sees(command, node_name())
        check_versions(read_json(command) or {}, node_name())

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Do a batch of task rows, return counts when all are in shards. Ray Data calls this from many
        threads: other batches are under way meanwhile."""
        rows: list[Row] = [UNUSED | row for row in batch.to_pylist()]
        left = self._not_done(rows)
        reasons = self.deaths.reasons()
        suspects = [row for row in left if key_of(row) in reasons]
        tokens = 0
        self.shards.expect(len(left))
        try:
            futures = {self._submit(row): row for row in left if key_of(row) not in reasons}
            for future in as_completed(futures):
                tokens += self._finish(futures[future], future)
            for row in suspects:
                why = reasons[key_of(row)]
                if len(why) >= MAX_ROW_DEATHS:
                    self.shards.add(row["task"], failed_row(row, EngineKilled(why)))
                else:
                    with self.alone:  # so that no two suspects are at work in one death
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

    def _finish(self, row: Row, future: Future[Row]) -> int:
        """Wait for a row's result and keep it; returns its tokens."""
        try:
            result = future.result()
        except Exception as error:
            if not self.engine.is_alive:
                self._end(str(error))
            result = failed_row(row, error)
        self.shards.add(row["task"], result)
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
        """End this process and its engine's, once what is finished is in shards and the suspects are
        named. Ray gives its batches to another worker."""
        with self.ending:  # never given back: the first thread to come ends all
            try:
                self.log.error("engine ended: %s", reason)
                self.deaths.record(reason, self.engine.suspects())
                self.shards.flush()
            finally:
                for child in psutil.Process().children(recursive=True):
                    child.kill()
                os.kill(os.getpid(), signal.SIGKILL)

    def _not_done(self, rows: list[Row]) -> list[Row]:
        """The rows, without those that another worker finished before it died with this batch."""
        names = "\n".join(f"{row['task']} {row['id']}" for row in rows)
        marker = self.folder / BATCHES / hashlib.sha256(names.encode()).hexdigest()[:16]
        if marker.exists():
            done = {
                task: finished_ids(self._place(task)[0]) for task in {row["task"] for row in rows}
            }
            rows = [row for row in rows if row["id"] not in done[row["task"]]]
        write_text(marker, "")
        return rows

    def _place(self, task: str) -> tuple[Path, pa.Schema]:
        return output_folder(self.folder, task), SCHEMAS[task]

    def _task(self, row: Row) -> EngineTask[Row]:
        return self.tracer.traced(TASKS[row["task"]](row, self.prompts, self.config), row)
