"""Ray Data over a pool of engine workers: task rows in, counts out, finished rows left out.

Ray Data streams rows, grows the pool, and retries the work of a dead node. Tasks read,
filter and check the rows; the process that runs this has no copy of them.
"""

from __future__ import annotations

import itertools
import math
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from actors.client import EngineClient
from actors.desk import StageWork
from actors.ledger import EngineLedger
from actors.placement import await_room
from actors.pool import engine_pool
from actors.remote import in_task, result_of
from actors.searcher import EngineWorker
from psr_ray.cluster.capacity import engine_demand
from psr_ray.config import Config
from psr_ray.errors import PsrError
from psr_ray.storage.files import Json, read_table
from psr_ray.storage.shards import (
    complete,
    drop_doubles,
    drop_failed,
    failed,
    finished_ids,
    reopen,
    weights_of,
)
from psr_ray.telemetry.progress import ProgressWriter

# Rows given to an engine, in multiples of those it works on at once: a batch that is down to its last
# search holds back no others, but its finished rows count here until it ends.
ROWS_AHEAD = 3.0

# Batches an engine gets before they grow, and how many there are of all before they grow again: each
# costs this process some 10 KB to the end.
MANY_BATCHES = 32
MOST_BATCHES = 8_000


def run_rows(
    inputs: Iterable[Path],
    folder: Path,
    model: str,
    config: Config,
    progress: ProgressWriter,
    judge: str | None = None,
    worker: type[EngineWorker] = EngineWorker,
    pool: Any = None,
    attempt: str | None = None,
    handed_out: Callable[[], None] | None = None,
) -> Json:
    """Stream all task rows that are not finished yet through the engine pool.

    ``judge`` is the model that judges, where it is not ``model``; ``worker`` another actor class
    (benchmarks simulate engines). Without a ``pool`` engines start and end here. ``attempt`` is the
    driver's (else this call is one); ``handed_out`` is called, perhaps often, once no row waits for an
    engine to have room.

    Returns what engines it took: ``engine_starts``, ``num_engines``, ``loading_s`` (the longest start or
    load), ``busy_s`` (of all engines) and ``doubt`` (of one that disagrees with the trainer). Raises
    ``PsrError`` where rows are missing in the end.
    """
    paths = list(inputs)
    expected, num_done = in_task(count_rows, paths, folder)
    total = sum(expected.values())
    progress.start(total, num_done)
    places = config.engine.max_rows_in_flight * config.engine.num_engines[0]

    def advance(rows: int, num_tokens: int) -> None:
        progress.advance(rows, num_tokens)
        if handed_out is not None and progress.total - progress.done <= places:
            handed_out()

    ledger = EngineLedger(folder)
    used: Json = {"engine_starts": 0, "loading_s": 0.0, "busy_s": 0.0}
    if num_done < total:
        for name in expected:
            reopen(folder / name)
        ledger.open()
        work = StageWork(model, config, folder, judge, attempt or uuid.uuid4().hex)
        with nullcontext(pool) if pool is not None else engine_pool(str(folder)) as engines:
            before = result_of(engines.starts.remote(str(folder)))
            used["busy_s"] = stream_rows(paths, work, progress, advance, worker, engines)
            result_of(engines.finish.remote(str(folder)))
            used["engine_starts"] = max(0, result_of(engines.starts.remote(str(folder))) - before)
    marks = ledger.engines()  # if no row was left, of a driver that has died
    if num_done < total:
        loading = [mark["loading_s"] for mark in marks]
        used |= {"num_engines": len(loading), "loading_s": max(loading, default=0.0)}
    used["doubt"] = next((mark["doubt"] for mark in marks if mark["doubt"]), None)
    ledger.remove()
    in_task(check_rows, folder, expected, config.engine.max_failed_share)
    return used


def with_names(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Task rows of a file with the names of their outputs (``psr_ray.data.rows.output_name``)."""
    rows = read_table(path, columns)
    parts = (rows["dataset"].cast(pa.string()), rows["task"])
    names = pc.binary_join_element_wise(*parts, "-", null_handling="skip")
    return rows.append_column("output", names)


def count_rows(paths: Sequence[Path], folder: Path) -> tuple[dict[str, int], int]:
    """How many rows each output is to have, and how many are finished in all."""
    tables = [with_names(path, ["task", "dataset"]) for path in paths]
    counts = pa.concat_tables(tables)["output"].value_counts().to_pylist()
    expected = {count["values"]: count["counts"] for count in counts}
    return expected, sum(len(finished_ids(folder / name)) for name in expected)


def unfinished(paths: Sequence[Path], folder: Path) -> pa.Table:
    """The rows that are not in shards, without the columns that no row uses: they would cost more than
    the others."""
    left = pa.concat_tables(with_names(path) for path in paths)
    for name in left["output"].unique().to_pylist():
        done = pc.is_in(left["id"], pa.array(sorted(finished_ids(folder / name)), pa.string()))
        left = left.filter(pc.invert(pc.and_(pc.equal(left["output"], name), done)))
    left = left.drop_columns("output")
    return left.select([name for name in left.column_names if left[name].null_count < len(left)])


def check_rows(folder: Path, expected: Mapping[str, int], max_failed_share: float) -> None:
    """Drop rows that were written twice, and let no others come. Raises ``PsrError`` where rows are
    missing, or too many failed; failed rows are then dropped, to be tried again."""
    paths = dict[str, list[Path]]()
    for name, num_expected in expected.items():
        found, paths[name] = drop_doubles(folder / name)
        if found != num_expected:
            raise PsrError(
                f"{folder}: {found} {name} rows of {num_expected} came back; rerun the command to do "
                "the rest"
            )
        weights = weights_of(folder / name)
        if len(weights) > 1:
            raise PsrError(
                f"{folder}: {name} rows of {len(weights)} models ({', '.join(sorted(weights))}); delete "
                "the folder and rerun the command"
            )
    for name, num_expected in expected.items():
        reasons = failed(folder / name)
        if len(reasons) > max_failed_share * num_expected:
            drop_failed(folder / name)
            examples = "; ".join(f"{row}: {why}" for row, why in list(reasons.items())[:3])
            raise PsrError(
                f"{folder}: {len(reasons)} of {num_expected} {name} rows failed ({examples}); fix "
                "the cause and rerun the command to try them again, or set engine.max_failed_share"
            )
    for name in expected:
        complete(folder / name, paths[name])


def batches(num_left: int, most: int, places: int, per_shard: int) -> tuple[list[int], int]:
    """How many rows each batch has, and how many batches an engine has at once at most.

    Engines get more as others end. Where all rows are handed out at once each engine gets its part,
    and those that start last, too.
    """
    # finished rows wait for their shard
    small = min(per_shard, places // 4, num_left // (2 * most))
    large = min(places // 2, num_left // (MANY_BATCHES * most))
    size = max(1, small, large, min(2 * places, num_left // MOST_BATCHES))
    num, at_once = -(-num_left // size), max(2, math.ceil((ROWS_AHEAD * places + per_shard) / size))
    parts = max(1, num_left // (size * most))
    if parts < at_once:
        num, at_once = min(num_left, parts * most), parts
    return [num_left // num + (index < num_left % num) for index in range(num)], at_once


def stream_rows(
    paths: list[Path],
    work: StageWork,
    progress: ProgressWriter,
    advance: Callable[[int, int], None],
    worker: type[EngineWorker],
    pool: Any,
) -> float:
    """The Ray Data pipeline: rows that are not finished, engines, counts. Returns the seconds that all
    engines worked."""
    import ray.data

    busy_s = 0.0

    config, folder, engine = work.config, work.folder, work.config.engine
    least, most = engine.num_engines
    if not result_of(pool.begin.remote(str(folder), work.attempt, work.judge)):
        demand, timeout_s = engine_demand(engine), config.resources_timeout_s
        room = result_of(pool.room.remote(demand))
        await_room(room, demand, progress.stage, timeout_s, progress.wait)
    context = ray.data.DataContext.get_current()  # of this process, which does nothing else
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1  # one long search may be all that is left
    context.raise_original_map_exception = True  # a full disk or a user's error keeps its type
    context.max_consecutive_actor_init_deaths = 2  # its node may have died meanwhile
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0  # full: start another
    # from_blocks: read_parquet yields a dozen blocks a second, too few for 64 engines; from_arrow has a
    # task with a CPU of its own look at each block, and waits for ever where engines have them all
    left = in_task(unfinished, paths, folder)  # a view into Ray's object store, not a copy
    sizes, num_batches = batches(len(left), most, engine.max_rows_in_flight, engine.rows_per_shard)
    ends = itertools.accumulate(sizes)
    blocks = [left.slice(end - size, size) for end, size in zip(ends, sizes, strict=True)]
    num_clients = max(least, min(most, len(blocks)))
    dataset = ray.data.from_blocks(blocks)
    del left, blocks
    counted = dataset.map_batches(
        EngineClient,
        fn_constructor_args=(pool, work, worker),
        batch_format="pyarrow",
        batch_size=None,  # a block
        compute=ray.data.ActorPoolStrategy(
            min_size=least,
            initial_size=num_clients,  # they take no room: all engines start together
            max_size=most,
            max_tasks_in_flight_per_actor=num_batches,
            max_concurrent_calls_per_actor=num_batches,
            enable_true_multi_threading=True,
        ),
        num_cpus=0,
    )
    # block by block: batches of a size would wait for that many counts
    for counts in counted.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=0):
        rows: list[dict[str, Any]] = counts.to_pylist()
        for row in rows:
            advance(row["rows"], row["tokens"])
            busy_s += row["busy_s"]
    return busy_s
