"""Records of files: JSON lines, CSV, Parquet, a folder that `datasets` saved; or of many, by a glob."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO, cast

from psr_ray.errors import PsrError
from psr_ray.storage.files import Row
from psr_ray.storage.locations import is_remote, location
from psr_ray.storage.shards import read_rows

PATTERN = set("*?[")
# Characters of a CSV field, at most.
MAX_FIELD = 2**24


@dataclass
class Failures:
    """Rows of input files that could not be used; ``revisions`` are those of the Hub datasets read, by
    id (and ``@`` what was asked for)."""

    items: list[dict[str, Any]] = field(default_factory=list)
    revisions: dict[str, str] = field(default_factory=dict)

    def add(self, path: Path, line: int, reason: str) -> None:
        self.items.append({"file": str(path), "line": line, "reason": reason})


def no_such_file(path: str | Path) -> PsrError:
    """The error of a path that names no file."""
    return PsrError(f"problem file {path}: no such file; correct `path` in the config's `data`")


def files_of(path: str) -> list[Path]:
    """The file of a path, or all that its glob matches. Raises ``PsrError`` where there is none."""
    place = location(path)
    if place.is_file() or is_saved_dataset(place):
        return [place]
    if not is_remote(place) and (place / "dataset_dict.json").is_file():
        splits = ", ".join(sorted(part.name for part in place.iterdir() if is_saved_dataset(part)))
        raise PsrError(f"problem file {path}: a folder of splits ({splits}); name one of them")
    found = [] if PATTERN.isdisjoint(place.name) else place.parent.glob(place.name)
    files = sorted(file for file in found if file.is_file())
    if not files:
        raise no_such_file(path)
    return files


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder was written by `Dataset.save_to_disk`."""
    return not is_remote(path) and (path / "state.json").is_file()


def read_records(path: Path, failures: Failures) -> Iterator[tuple[int, Row]]:
    """Line (or row) number and record of each good line of a file."""
    if is_saved_dataset(path):
        from datasets import Dataset

        yield from enumerate(Dataset.load_from_disk(str(path)), start=1)
        return
    if not path.is_file():
        raise no_such_file(path)
    kind = Path(path.name.removesuffix(".gz")).suffix
    if kind == ".parquet":
        remedy = "give another file, or correct `path` in the config's `data`"
        yield from enumerate(read_rows([path], remedy), start=1)
    elif kind in (".jsonl", ".json"):
        yield from json_lines(path, failures)
    elif kind == ".csv":
        yield from csv_records(path, failures)
    else:
        raise PsrError(
            f"problem file {path}: give .jsonl (an object a line), .csv (either also as .gz) or .parquet"
        )


@contextmanager
def text_of(path: Path) -> Iterator[TextIOWrapper]:
    """A text file's lines, unpacked where its name ends in ``.gz``."""
    with path.open("rb") as file:
        unpacked = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
        with TextIOWrapper(cast(BinaryIO, unpacked), "utf-8-sig", "replace", newline="") as lines:
            try:
                yield lines
            except (gzip.BadGzipFile, zlib.error, EOFError) as error:
                raise PsrError(f"problem file {path}: cannot be unpacked ({error})") from error


def csv_records(path: Path, failures: Failures) -> Iterator[tuple[int, Row]]:
    """Number of the last line and values of each good record, by the names in the first line."""
    csv.field_size_limit(MAX_FIELD)  # of this process; the default is shorter than long solutions
    with text_of(path) as lines:
        reader = csv.DictReader(lines, strict=True)  # else an open quote swallows the rest
        while True:
            try:
                record = next(reader, None)
            except csv.Error as error:
                failures.add(path, reader.line_num, f"not CSV: {error}")
                continue
            if record is None:
                return
            if None in record:
                failures.add(path, reader.line_num, "more values than columns")
            else:
                yield reader.line_num, record


def json_lines(path: Path, failures: Failures) -> Iterator[tuple[int, Row]]:
    """Number and object of each good line."""
    with text_of(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                failures.add(path, number, f"not JSON: {error.msg} at column {error.colno}")
                continue
            except (ValueError, RecursionError) as error:
                failures.add(path, number, f"not JSON that can be read: {error}")
                continue
            if isinstance(record, dict):
                yield number, record
            else:
                failures.add(path, number, f"expected an object, found {type(record).__name__}")
