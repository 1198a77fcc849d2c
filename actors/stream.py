"""Ray Data over a pool of engine workers: task rows in, counts out, finished rows dropped.

Ray Data streams rows, grows and shrinks the pool, and retries what a dead node took with it.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from actors.placement import COMMAND, ENGINES, await_ended, await_room, looking_for_nodes
from actors.searcher import BATCHES, EngineWorker
from psr_ray.cluster.capacity import engine_demand
from psr_ray.cluster.nodes import versions_here
from psr_ray.config import Config
from psr_ray.errors import PsrError
from psr_ray.inference.deaths import FOLDER as DEATHS
from psr_ray.inference.deaths import Deaths
from psr_ray.inference.tasks import output_folder
from psr_ray.storage.files import read_table, write_text
from psr_ray.storage.locations import remove
from psr_ray.storage.shards import drop_doubles, drop_failed, failed, finished_ids
from psr_ray.telemetry.progress import ProgressWriter

# Rows given to an engine, in multiples of those it works on at once: a batch that is down to its last
# search holds back no others, but its finished rows count here until it ends.
ROWS_AHEAD = 3.0

# Batches an engine gets at least before they grow: each costs the driver some 10 KB to the end.
MANY_BATCHES = 32


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
    paths = list(inputs)
    expected: Counter[str] = Counter()
    for path in paths:
        counts = read_table(path, ["task"])["task"].value_counts()
        expected.update({count["values"]: count["counts"] for count in counts.to_pylist()})
    done = {task: finished_ids(output_folder(folder, task)) for task in expected}
    total, num_done = expected.total(), sum(len(ids) for ids in done.values())
    progress.start(total, num_done)
    if num_done < total:
        stream_rows(paths, done, total - num_done, folder, model, config, progress, first, worker)
    for marks in (BATCHES, DEATHS, ENGINES):
        remove(folder / marks)
    for task, num_expected in expected.items():
        found = drop_doubles(output_folder(folder, task))
        if found != num_expected:
            raise PsrError(
                f"{folder}: {found} {task} rows of {num_expected} came back; run the same command "
                "again to do the rest"
            )
    check_failures(folder, expected, config.engine.max_failed_share)


def check_failures(folder: Path, expected: Mapping[str, int], most: float) -> None:
    """Raises ``PsrError`` with three examples where more than a share of a task's rows failed."""
    for task, num_expected in expected.items():
        reasons = failed(output_folder(folder, task))
        if len(reasons) > most * num_expected:
            drop_failed(output_folder(folder, task))
            examples = "; ".join(f"{name}: {why}" for name, why in list(reasons.items())[:3])
            raise PsrError(
                f"{folder}: {len(reasons)} of {num_expected} {task} rows failed ({examples}); mend "
                "the cause and run the same command to try them again, or set engine.max_failed_share"
            )


def unfinished(
    paths: Sequence[Path], done: Mapping[str, Set[str]], per_batch: int
) -> Iterator[pa.Table]:
    """The rows whose ids are not done, in tables of ``per_batch`` rows (the last: fewer), without the
    columns that no row uses: they would cost more than the others. No row becomes a Python object: this
    runs in the driver, whose memory is not to grow with the input."""
    left = pa.concat_tables(read_table(path) for path in paths)
    for task, ids in done.items():
        known = pc.is_in(left["id"], pa.array(sorted(ids), pa.string()))
        left = left.filter(pc.invert(pc.and_(pc.equal(left["task"], task), known)))
    left = left.select([name for name in left.column_names if left[name].null_count < len(left)])
    for start in range(0, len(left), per_batch):
        yield left.slice(start, per_batch)


def stream_rows(
    paths: list[Path],
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
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1  # one long search may be all that is left
    context.raise_original_map_exception = True  # a full disk or a user's mistake stays what it is
    context.actor_init_max_retries = 0  # a model that cannot be loaded is said at once
    context.max_consecutive_actor_init_deaths = 2  # its node may have died meanwhile
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
    write_text(folder / ENGINES / COMMAND, json.dumps(versions_here()))
    await_room(
        engine_demand(engine),
        progress.stage,
        config.resources_timeout_s,
        progress.wait,
        "STRICT_PACK",
    )
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
    deaths = Deaths(folder)
    deaths.begin()
    try:
        with looking_for_nodes():
            for counts in dataset.iter_batches(batch_format="pyarrow", prefetch_batches=0):
                rows: list[dict[str, Any]] = counts.to_pylist()
                for row in rows:
                    progress.advance(row["rows"], row["tokens"])
    except Exception as error:
        refusal = deaths.refusal() or said_by_user_error(error)
        if refusal is None or not isinstance(error, ray.exceptions.RayActorError):
            raise
        raise PsrError(
            f"no engine could be started for {model}: {refusal} (finished rows are kept; all that the "
            "engine said is in Ray's worker logs)"
        ) from error
    await_ended(folder)


def said_by_user_error(error: BaseException) -> str | None:
    """What a ``PsrError`` in an actor's last words said, where it could not be written to the folder."""
    found = re.findall(r"psr_ray\.errors\.PsrError: (.*)", str(error))
    return found[-1] if found else None
