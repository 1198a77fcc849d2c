"""Building IFT data from worked solutions: decontaminated, divided into steps, what is left out counted.

ift.parquet       problems with ``Step n:`` solutions (``data.ift: {kind: file, path: …/ift.parquet}``)
rejected.jsonl    the others, each with its reason and what it came from
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from psr_ray.data.decontamination import Benchmarks
from psr_ray.data.formats import problem_from
from psr_ray.data.problems import Problem
from psr_ray.data.rows import TASK_SCHEMA, Row, problem_row
from psr_ray.data.seed.division import NotDividedError, divided_by_rule
from psr_ray.data.sources import Failures, read_records
from psr_ray.errors import PsrError
from psr_ray.runs import Stage, content_key
from psr_ray.storage.files import Json, write_text
from psr_ray.storage.folders import FolderLock, disk_checked
from psr_ray.storage.shards import write_rows


def digest(path: Path) -> str | None:
    """What a file holds; None where there is none (reading it says so)."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def problems_of(path: Path, failures: Failures) -> Iterator[tuple[int, Problem]]:
    """Line and problem of each good record of a file."""
    for line, record in read_records(path, failures):
        try:
            yield line, problem_from(record, path, line)
        except ValueError as error:
            failures.add(path, line, str(error))


def benchmarks_of(paths: Sequence[Path]) -> Benchmarks:
    """The phrases of benchmark files. Raises ``PsrError`` where one holds no problem."""
    benchmarks = Benchmarks()
    for path in paths:
        failures = Failures()
        if not benchmarks.add(path.stem, (p.text for _, p in problems_of(path, failures))):
            raise PsrError(f"benchmark {path}: holds no problem; nothing could be kept out by it")
    return benchmarks


def build_ift(
    problems: Sequence[Path],
    folder: Path,
    benchmarks: Sequence[Path],
    max_steps: int,
) -> Json:
    """Divide the solutions of problem files; returns counts. What is complete is not done again.

    Raises ``PsrError`` where a file cannot be read, where no solution is kept, and where the folder
    holds other results.
    """
    digests = [[digest(path) for path in paths] for paths in (problems, benchmarks)]
    key = content_key("ift", {"files": digests, "max_steps": max_steps}, [])
    stage = Stage("ift", folder, key)
    if stage.is_complete:
        return stage.manifest or {}
    stage.check_free("another set of files")
    started = time.monotonic()
    known = benchmarks_of(benchmarks)
    failures, rejected, kept = Failures(), list[dict[str, Any]](), list[Row]()
    seen: set[str] = set()
    for path in problems:
        for line, problem in problems_of(path, failures):
            try:
                row = _row(problem, known, seen, max_steps)
            except NotDividedError as error:
                place = {"file": str(path), "line": line, "id": problem.id}
                rejected.append(place | {"reason": str(error)})
            else:
                kept.append(row)
    rejected += failures.items
    reasons = Counter(item["reason"].split(":")[0] for item in rejected)
    if not kept:
        raise PsrError(
            f"{', '.join(map(str, problems))}: not one solution could be kept ({dict(reasons)}); give "
            "problems with a `solution` and an `answer`"
        )
    with disk_checked(folder), FolderLock(folder):
        stage.open()
        write_rows(folder / "ift.parquet", kept, TASK_SCHEMA)
        lines = "".join(json.dumps(item) + "\n" for item in rejected)
        write_text(folder / "rejected.jsonl", lines)
        stage.finish(time.monotonic() - started, kept=len(kept), rejected=dict(reasons))
    return stage.manifest or {}


def _row(problem: Problem, known: Benchmarks, seen: set[str], max_steps: int) -> Row:
    """A problem as a row; ``NotDividedError`` where it is left out."""
    benchmark = known.found_in(problem.text)
    if benchmark is not None:
        raise NotDividedError(f"in a benchmark: {benchmark}")
    if problem.id in seen:
        raise NotDividedError("its id occurs a second time")
    seen.add(problem.id)
    return problem_row("solve", problem) | {"solution": divided_by_rule(problem, max_steps)}
