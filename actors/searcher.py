"""Ray Data over a pool of vLLM engines: task rows in, Parquet shards out, exactly once.

Ray Data streams rows, grows and shrinks the pool, and retries what a dead node took with it. Each
engine writes its own shards; only counts travel back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from psr_ray.config import Config
from psr_ray.engine import VllmEngine
from psr_ray.errors import PsrError
from psr_ray.generation import EngineTask
from psr_ray.progress import ProgressWriter
from psr_ray.prompts import PromptBuilder, load_tokenizer
from psr_ray.rows import Row, finished_ids, write_shard
from psr_ray.tasks import SCHEMAS, TASKS, failed_row, num_tokens, output_folder

# Batches given to an engine, in multiples of those that fill it.
BATCHES_AHEAD = 2


class EngineWorker:
    """A Ray Data actor: one vLLM engine (with M1 beside it, where ``first`` is given), many rows."""

    def __init__(self, model: str, config: Config, folder: Path, first: str | None) -> None:
        self.config = config
        self.folder = folder
        tokenizer = load_tokenizer(model, trust_remote_code=config.model.trust_remote_code)
        self.prompts = PromptBuilder(tokenizer, config.prompts)
        self.engine = VllmEngine(model, config.model, config.engine, config.seed, first)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Do a batch of task rows, write their shards, return counts. Ray Data calls this from many
        threads: other batches are under way meanwhile."""
        rows: list[Row] = batch.to_pylist()
        futures = [self.engine.submit(self._task(row)) for row in rows]
        finished: dict[str, list[Row]] = {}
        for row, future in zip(rows, futures, strict=True):
            try:
                result = future.result()
            except Exception as error:
                if not self.engine.is_alive:
                    raise
                result = failed_row(row, error)
            finished.setdefault(row["task"], []).append(result)
        for task, done in finished.items():
            write_shard(output_folder(self.folder, task), done, SCHEMAS[task])
        return pa.table(
            {
                "rows": [len(rows)],
                "tokens": [sum(num_tokens(r) for done in finished.values() for r in done)],
            }
        )

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
        expected.update(pq.read_table(path, columns=["task"])["task"].to_pylist())
    done = {task: finished_ids(output_folder(folder, task)) for task in expected}
    total, num_done = expected.total(), sum(len(ids) for ids in done.values())
    progress.start(total, num_done)
    if num_done < total:
        stream_rows(paths, done, total - num_done, folder, model, config, progress, first, worker)
    for task, num_expected in expected.items():
        found = len(finished_ids(output_folder(folder, task)))
        if found != num_expected:
            raise PsrError(
                f"{folder}: {found} {task} rows of {num_expected} came back; run the same command "
                "again to do the rest"
            )


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
    """The Ray Data pipeline: read, drop finished rows, engines."""
    import ray.data

    def unfinished(batch: pa.Table) -> pa.Table:
        names = zip(batch["task"].to_pylist(), batch["id"].to_pylist(), strict=True)
        return batch.filter(pa.array([name not in done[task] for task, name in names]))

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.use_datasource_v2 = False  # it starts 32 processes to read footers; we have a few files
    context.execution_no_progress_timeout_s = -1  # one long search may be all that is left
    engine = config.engine
    least, most = engine.num_engines
    # A batch is a block: engines get more of them as others end. There are more than the rows in flight
    # need, for a batch that is down to its last search fills no more than one place.
    per_batch = min(engine.rows_per_shard, -(-num_left // (2 * most)))
    num_batches = BATCHES_AHEAD * -(-engine.max_rows_in_flight // engine.rows_per_shard)
    # no engine takes more than its part while others are still starting
    num_batches = min(num_batches, -(-num_left // (per_batch * most)))
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0  # full: start another
    dataset = (
        ray.data.read_parquet(paths, override_num_blocks=1)
        .map_batches(unfinished, batch_format="pyarrow", batch_size=None, zero_copy_batch=True)
        .repartition(target_num_rows_per_block=per_batch)
        .map_batches(
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
    )
    for counts in dataset.iter_batches(batch_format="pyarrow", prefetch_batches=0):
        rows: list[dict[str, Any]] = counts.to_pylist()
        for row in rows:
            progress.advance(row["rows"], row["tokens"])
