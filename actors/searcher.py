"""Ray Data over a pool of vLLM engines: task rows in, Parquet shards out, exactly once.

Ray Data streams rows, grows and shrinks the pool, and retries what a dead node took with it. Each
engine writes its own shards; only counts travel back.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from psr_ray.config import Config
from psr_ray.engine import VllmEngine
from psr_ray.errors import PsrError
from psr_ray.generation import EngineTask
from psr_ray.progress import ProgressWriter
from psr_ray.prompts import PromptBuilder, load_tokenizer
from psr_ray.rows import TASK_SCHEMA, Row
from psr_ray.shards import ShardWriter, drop_doubles, finished_ids
from psr_ray.tasks import SCHEMAS, TASKS, failed_row, num_tokens, output_folder

# Rows given to an engine, in multiples of those it works on at once: a batch that is down to its last
# search holds back no others, but its finished rows count here until it ends.
ROWS_AHEAD = 3.0

# Batches an engine gets at least before they grow: each costs the driver some 10 KB to the end.
MANY_BATCHES = 32

# Marks of the batches given out, in a stage's folder: one that is given out again was a dead worker's.
BATCHES = "batches"

# Columns that no row of a stage uses are not sent.
UNUSED: Row = dict.fromkeys(TASK_SCHEMA.names)


class EngineWorker:
    """A Ray Data actor: one vLLM engine (with M1 beside it, where ``first`` is given), many rows."""

    def __init__(self, model: str, config: Config, folder: Path, first: str | None) -> None:
        self.config = config
        self.folder = folder
        self.shards = ShardWriter(self._place, config.engine.rows_per_shard)
        self._start_engine(model, first)

    def _start_engine(self, model: str, first: str | None) -> None:
        config = self.config
        tokenizer = load_tokenizer(model, trust_remote_code=config.model.trust_remote_code)
        self.prompts = PromptBuilder(tokenizer, config.prompts)
        self.engine = VllmEngine(model, config.model, config.engine, config.seed, first)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Do a batch of task rows, return counts when all are in shards. Ray Data calls this from many
        threads: other batches are under way meanwhile."""
        rows: list[Row] = [UNUSED | row for row in batch.to_pylist()]
        left = self._not_done(rows)
        tokens = 0
        self.shards.expect(len(left))
        try:
            futures = {self.engine.submit(self._task(row)): row for row in left}
            for future in as_completed(futures):
                row = futures[future]
                try:
                    result = future.result()
                except Exception as error:
                    if not self.engine.is_alive:
                        raise
                    result = failed_row(row, error)
                tokens += num_tokens(result)
                self.shards.add(row["task"], result)
            self.shards.wait((row["task"], row["id"]) for row in left)
        except BaseException:
            self.shards.flush()
            raise
        return pa.table({"rows": [len(rows)], "tokens": [tokens]})

    def _not_done(self, rows: list[Row]) -> list[Row]:
        """The rows, without those that another worker finished before it died with this batch."""
        names = "\n".join(f"{row['task']} {row['id']}" for row in rows)
        marker = self.folder / BATCHES / hashlib.sha256(names.encode()).hexdigest()[:16]
        if marker.exists():
            done = {
                task: finished_ids(self._place(task)[0]) for task in {row["task"] for row in rows}
            }
            rows = [row for row in rows if row["id"] not in done[row["task"]]]
        marker.parent.mkdir(exist_ok=True)
        marker.touch()
        return rows

    def _place(self, task: str) -> tuple[Path, pa.Schema]:
        return output_folder(self.folder, task), SCHEMAS[task]

    def _task(self, row: Row) -> EngineTask[Row]:
        return TASKS[row["task"]](row, self.prompts, self.config)


def run_rows(
    inputs: Iterable[Path],
    folder: Path,
    model: str,
    config: Config,
    progress: ProgressWriter,
    first: str | None = None,
    worker: type[EngineWorker] = EngineWorker,
) -> None:
    """Stream all task rows that are not finished yet through the engine pool.

    ``first`` is M1's folder where the config's method has it judge; ``worker`` another actor class
    (benchmarks simulate engines).

    Raises ``PsrError`` where rows are missing in the end.
    """
    paths = [str(path) for path in inputs]
    expected: Counter[str] = Counter()
    for path in paths:
        counts = pq.read_table(path, columns=["task"])["task"].value_counts()
        expected.update({count["values"]: count["counts"] for count in counts.to_pylist()})
    done = {task: finished_ids(output_folder(folder, task)) for task in expected}
    total, num_done = expected.total(), sum(len(ids) for ids in done.values())
    progress.start(total, num_done)
    if num_done < total:
        stream_rows(paths, done, total - num_done, folder, model, config, progress, first, worker)
    shutil.rmtree(folder / BATCHES, ignore_errors=True)
    for task, num_expected in expected.items():
        found = drop_doubles(output_folder(folder, task))
        if found != num_expected:
            raise PsrError(
                f"{folder}: {found} {task} rows of {num_expected} came back; run the same command "
                "again to do the rest"
            )


def unfinished(
    paths: Sequence[str], done: Mapping[str, Set[str]], per_batch: int
) -> Iterator[pa.Table]:
    """The rows whose ids are not done, in tables of ``per_batch`` rows (the last: fewer), without the
    columns that no row uses: they would cost more than the others. No row becomes a Python object: this
    runs in the driver, whose memory is not to grow with the input."""
    left = pa.concat_tables(pq.read_table(path) for path in paths)
    for task, ids in done.items():
        known = pc.is_in(left["id"], pa.array(sorted(ids), pa.string()))
        left = left.filter(pc.invert(pc.and_(pc.equal(left["task"], task), known)))
    left = left.select([name for name in left.column_names if left[name].null_count < len(left)])
    for start in range(0, len(left), per_batch):
        yield left.slice(start, per_batch)


def stream_rows(
    paths: list[str],
    done: dict[str, set[str]],
    num_left: int,
    folder: Path,
    model: str,
    config: Config,
    progress: ProgressWriter,
    first: str | None,
    worker: type[EngineWorker],
) -> None:
    """The Ray Data pipeline: rows that are not finished, engines, counts."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1  # one long search may be all that is left
    engine = config.engine
    least, most = engine.num_engines
    # A batch is a block: engines get more of them as others end. Finished rows wait for their shard.
    places, per_shard = engine.max_rows_in_flight, engine.rows_per_shard
    small = min(per_shard, places // 4, num_left // (2 * most))
    large = min(places // 2, num_left // (MANY_BATCHES * most))
    per_batch = max(1, small, large)
    num_batches = math.ceil((ROWS_AHEAD * places + per_shard) / per_batch)
    # no engine takes more than its part while others are still starting
    num_batches = min(num_batches, -(-num_left // (per_batch * most)))
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0  # full: start another
    # blocks, not a read: one file's read hands on a dozen blocks a second, too few for 64 engines
    blocks = ray.data.from_blocks(list(unfinished(paths, done, per_batch)))
    pa.default_memory_pool().release_unused()  # Ray's object store has the rows now
    dataset = blocks.map_batches(
        worker,
        fn_constructor_args=(model, config, folder, first),
        batch_format="pyarrow",
        batch_size=per_batch,
        compute=ray.data.ActorPoolStrategy(
            min_size=least,
            max_size=most,
            max_tasks_in_flight_per_actor=num_batches,
            max_concurrent_calls_per_actor=num_batches,
            enable_true_multi_threading=True,
        ),
        num_cpus=engine.cpus_per_engine,
        num_gpus=engine.tensor_parallel_size,
    )
    for counts in dataset.iter_batches(batch_format="pyarrow", prefetch_batches=0):
        rows: list[dict[str, Any]] = counts.to_pylist()
        for row in rows:
            progress.advance(row["rows"], row["tokens"])
