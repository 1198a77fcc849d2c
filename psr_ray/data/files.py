"""Records of files: JSON lines, CSV, Parquet, a folder that `datasets` saved; or of many, by a glob."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from psr_ray.errors import PsrError
from psr_ray.storage.files import Row
from psr_ray.storage.locations import is_remote, location
from psr_ray.storage.shards import read_rows

PATTERN = set("*?[")


@dataclass
class Failures:
    """Rows of input files that could not be used; ``revisions`` are those of the Hub datasets read."""

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
    if PATTERN.isdisjoint(place.name):
        found = [place] if place.is_file() or is_saved_dataset(place) else []
    else:
        found = sorted(file for file in place.parent.glob(place.name) if file.is_file())
    if not found:
        raise no_such_file(path)
    return found


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
        with text_of(path) as lines:
            for record in (reader := csv.DictReader(lines)):
                yield reader.line_num, record
    else:
        raise PsrError(
            f"problem file {path}: give .jsonl (an object a line), .csv (either also as .gz) or .parquet"
        )


@contextmanager
def text_of(path: Path) -> Iterator[TextIOWrapper]:
    """A text file's lines, unpacked where its name ends in ``.gz``."""
    with path.open("rb") as file:
        if path.suffix == ".gz":
            with gzip.open(file) as packed, TextIOWrapper(packed, "utf-8", "replace") as lines:
                try:
                    yield lines
                except (OSError, EOFError) as error:  # gzip's own, of a broken file
                    raise PsrError(f"problem file {path}: cannot be unpacked ({error})") from error
        else:
            with TextIOWrapper(file, "utf-8", "replace", newline="") as lines:
                yield lines


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
