"""Atomic writes: a file is complete and on disk, or unchanged. JSON objects and Parquet tables."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from psr_ray.errors import PsrError
from psr_ray.storage.locations import is_remote, store_of

Json = dict[str, Any]
# A row of a Parquet file.
Row = dict[str, Any]

REDO = "delete it and rerun the command: its rows are redone"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A local path to write to. At the end the file is synced and renamed, or uploaded to the store:
    an object appears at once."""
    if is_remote(path):
        files, name = store_of(path)
        with tempfile.TemporaryDirectory(prefix="psr-ray-") as folder:
            yield Path(folder) / "file"
            files.put_file(str(Path(folder) / "file"), name)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # a name of this thread's: two stages may write side by side
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{threading.get_native_id()}")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        with contextlib.suppress(OSError):  # left where writing failed
            unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file atomically."""
    with whole_file(path) as unfinished:
        pq.write_table(table, unfinished)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file, or some columns of it. Raises ``PsrError`` where it cannot be read."""
    with readable(path), path.open("rb") as file:
        return pq.read_table(file, columns=columns)


@contextmanager
def readable(path: Path, remedy: str = REDO) -> Iterator[None]:
    """Inside, a Parquet file that is damaged is a ``PsrError`` that names it."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        if getattr(error, "errno", None) is not None:  # not the file's content
            raise
        said = " ".join(str(error).split())[:200]
        raise PsrError(f"{path}: cannot be read ({said}); {remedy}") from error


def read_json(path: Path, remedy: str = "delete it, its stage is then redone") -> Json | None:
    """The object in a JSON file; None where there is no file. Raises ``PsrError`` with the remedy."""
    try:
        if is_remote(path):
            # by one request: an open file would be refused where another process replaces it meanwhile
            files, name = store_of(path)
            content: bytes = files.cat_file(name)
        else:
            content = path.read_bytes()
        values: Json = json.loads(content.decode("utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise PsrError(f"{path}: not JSON ({error}); {remedy}") from error
    if not isinstance(values, dict):
        raise PsrError(f"{path}: no JSON object; {remedy}")
    return values
