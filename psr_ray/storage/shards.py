"""Parquet shards: rows that are written once, atomically.

Rows that an engine finishes are pooled over its batches (``ShardWriter``), so that little is lost with
it. The ids in the shards tell which rows are done.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from psr_ray.storage.files import (
    REDO,
    Row,
    read_json,
    read_table,
    readable,
    write_table,
    write_text,
)

# Shards that are read at once: a store takes long to answer, and answers many at once.
NUM_READERS = 32
# The names of a complete folder's shards: one that comes later is not among them.
COMPLETE = "complete.json"

Key = tuple[str, str]  # a row's output (a folder of shards) and id


def write_rows(path: Path, rows: Sequence[Row], schema: pa.Schema) -> None:
    """Write a Parquet file atomically."""
    write_table(path, pa.Table.from_pylist(list(rows), schema=schema))


def write_shard(folder: Path, rows: Sequence[Row], schema: pa.Schema) -> Path:
    """Write rows as one shard, named after their ids: the same rows never make two shards."""
    path = folder / shard_name(row["id"] for row in rows)
    write_rows(path, rows, schema)
    return path


def shard_name(ids: Iterable[str]) -> str:
    """The file name of a shard with the rows of these ids."""
    return f"part-{hashlib.sha256(chr(10).join(sorted(ids)).encode()).hexdigest()[:16]}.parquet"


def shards(folder: Path) -> list[Path]:
    """The finished shards of a folder, in a fixed order; of a complete one those that it had then."""
    found = {path.name: path for path in sorted(folder.glob("*.*"))}
    complete = read_json(found[COMPLETE]) if COMPLETE in found else None
    counted = found.keys() if complete is None else set(complete["shards"])
    return [path for name, path in found.items() if name.startswith("part-") and name in counted]


def complete(folder: Path, paths: Iterable[Path]) -> None:
    """These shards are all that is wanted: what an engine adds that was cut off from the cluster, and
    does not know yet that others did its work, does not count."""
    write_text(folder / COMPLETE, json.dumps({"shards": [path.name for path in paths]}))


def reopen(folder: Path) -> None:
    """Rows are missing in a folder of shards: what is added counts."""
    (folder / COMPLETE).unlink(missing_ok=True)


def read_rows(paths: Iterable[Path], remedy: str = REDO) -> Iterator[Row]:
    """All rows of some Parquet files, one at a time. ``PsrError`` names one that is damaged."""
    for path in paths:
        with readable(path, remedy), path.open("rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=256):
                yield from batch.to_pylist()


def read_columns(paths: Sequence[Path], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Some columns of each of some Parquet files, in their order."""
    with ThreadPoolExecutor(NUM_READERS) as readers:
        yield from readers.map(lambda path: read_table(path, columns), paths)


def finished_ids(folder: Path) -> set[str]:
    """Ids of the rows that finished shards hold."""
    tables = read_columns(shards(folder), ["id"])
    return {value for table in tables for value in table["id"].to_pylist()}


def num_rows(paths: Iterable[Path]) -> int:
    """Rows in some Parquet files, by their footers."""

    def in_one(path: Path) -> int:
        with readable(path), path.open("rb") as file:
            return int(pq.ParquetFile(file).metadata.num_rows)

    with ThreadPoolExecutor(NUM_READERS) as readers:
        return sum(readers.map(in_one, paths))


def drop_doubles(folder: Path) -> tuple[int, list[Path]]:
    """Remove rows that are there already; returns the number of rows left, and their shards.

    A worker that was cut off from the cluster may have continued a batch that another one got.
    """
    seen, left, paths = set[str](), list[Path](), shards(folder)
    for path, table in zip(paths, read_columns(paths, ["id"]), strict=True):
        ids = table["id"].to_pylist()
        wanted = {value: index for index, value in enumerate(ids) if value not in seen}
        if len(wanted) == len(ids):
            left.append(path)
        else:  # under another name: that worker may write this one once more
            rest = folder / shard_name(wanted)
            if wanted and rest in paths:  # these rows follow as they are
                wanted = {}
            if wanted:
                write_table(rest, read_table(path).take(list(wanted.values())))
                left.append(rest)
            path.unlink()
        seen.update(wanted)
    return len(seen), left


def weights_of(folder: Path) -> set[str]:
    """The fingerprints of the weights that made a folder's rows."""
    found = (table["weights"].unique() for table in read_columns(shards(folder), ["weights"]))
    return {value for values in found for value in values.to_pylist() if value is not None}


def failed(folder: Path) -> dict[str, str]:
    """The reasons of the rows that failed, by their ids."""
    rows = (
        row for table in read_columns(shards(folder), ["id", "error"]) for row in table.to_pylist()
    )
    return {row["id"]: row["error"] for row in rows if row["error"] is not None}


def drop_failed(folder: Path) -> None:
    """Remove failed rows from their shards: they are then tried again."""
    for path in shards(folder):
        table = read_table(path)
        whole = table.filter(pc.is_null(table["error"]))
        if not len(whole):
            path.unlink()
        elif len(whole) < len(table):
            write_table(path, whole)


class ShardWriter:
    """Writes the rows that one worker's threads finish, in shards of ``rows_per_shard`` rows.

    A shard has fewer only when nothing else is in flight. ``place`` gives a task's folder and
    schema.
    """

    def __init__(self, place: Callable[[str], tuple[Path, pa.Schema]], rows_per_shard: int) -> None:
        self.place = place
        self.rows_per_shard = rows_per_shard
        self.changed = threading.Condition()
        self.num_open = 0
        self.pools: dict[str, list[Row]] = {}
        self.written: set[Key] = set()
        self.error: BaseException | None = None

    def expect(self, num: int) -> None:
        """Announce as many more rows in flight."""
        with self.changed:
            self.num_open += num

    def add(self, task: str, row: Row) -> None:
        """A finished row; the thread that brings a full shard's last one writes it."""
        with self.changed:
            self.num_open -= 1
            self.pools.setdefault(task, []).append(row)
            full = [
                name
                for name, rows in self.pools.items()
                if len(rows) >= self.rows_per_shard or not self.num_open
            ]
            taken = {name: self.pools.pop(name) for name in full}
        self._write(taken)

    def flush(self) -> None:
        """Write the finished rows: the worker is about to end."""
        with self.changed:
            taken, self.pools = self.pools, {}
        self._write(taken)

    def wait(self, keys: Iterable[Key]) -> None:
        """Wait until all these rows, passed to ``add`` before, are in shards.

        Raises the error of writing them, from whichever thread.
        """
        wanted = set(keys)
        with self.changed:
            self.changed.wait_for(lambda: self.error is not None or wanted <= self.written)
            if self.error is not None:
                raise self.error
            self.written -= wanted

    def _write(self, taken: dict[str, list[Row]]) -> None:
        for task, rows in taken.items():
            folder, schema = self.place(task)
            try:
                write_shard(folder, rows, schema)
            except BaseException as error:
                with self.changed:
                    self.error = error
                    self.changed.notify_all()
                raise
            with self.changed:
                self.written.update((task, row["id"]) for row in rows)
                self.changed.notify_all()
