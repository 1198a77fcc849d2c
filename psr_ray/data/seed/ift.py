"""Building IFT data from worked solutions: decontaminated, divided into steps, what is left out counted.

ift.parquet       problems with ``Step n:`` solutions (``data.ift: {kind: file, path: …/ift.parquet}``)
rejected.jsonl    the others, each with its reason and what it came from
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from psr_ray.data.benchmarks import phrases_of
from psr_ray.data.decontamination import Benchmarks
from psr_ray.data.files import Failures
from psr_ray.data.rows import TASK_SCHEMA, problem_row
from psr_ray.data.seed.division import (
    NotDividedError,
    boxed,
    checked,
    divided_by_rule,
    division_prompt,
)
from psr_ray.data.sources import problems_of
from psr_ray.errors import PsrError
from psr_ray.problems import Problem
from psr_ray.runs import Stage, content_key
from psr_ray.storage.files import Json, Row, write_text
from psr_ray.storage.folders import FolderLock, disk_checked
from psr_ray.storage.shards import write_rows


def digest(path: Path) -> str | None:
    """A hash of a file's content; None where there is no file (reading it raises)."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Prompts by id, to what was written after each.
Writer = Callable[[Mapping[str, str]], Mapping[str, Row]]


def build_ift(
    problems: Sequence[Path],
    folder: Path,
    benchmarks: Sequence[Path],
    max_steps: int,
    writer: Writer | None = None,
    written_by: str = "rule",
) -> Json:
    """Divide the solutions of problem files; returns counts. What is complete is not done again.

    ``writer`` has a model divide them (prompts by id to rows with ``text``, ``error``); None: by rule.

    Raises ``PsrError`` where a file cannot be read, where no solution is kept, and where the folder
    holds other results.
    """
    digests = [[digest(path) for path in paths] for paths in (problems, benchmarks)]
    key = content_key("ift", {"files": digests, "max_steps": max_steps, "by": written_by}, [])
    stage = Stage("ift", folder, key)
    if stage.is_complete:
        return stage.manifest or {}
    stage.check_free("another set of files")
    started = time.monotonic()
    known = phrases_of(benchmarks)
    with disk_checked(folder), FolderLock(folder):
        stage.open()
        kept, rejected = _divided(problems, known, max_steps, writer)
        reasons = Counter(item["reason"].split(":")[0] for item in rejected)
        lines = "".join(json.dumps(item) + "\n" for item in rejected)
        write_text(folder / "rejected.jsonl", lines)
        if not kept:
            raise PsrError(
                f"{', '.join(map(str, problems))}: not one solution could be kept ({dict(reasons)}); "
                "give problems with a `solution` and an `answer`, or another --divide-by"
            )
        write_rows(folder / "ift.parquet", kept, TASK_SCHEMA)
        stage.finish(time.monotonic() - started, kept=len(kept), rejected=dict(reasons))
    return stage.manifest or {}


def _divided(
    paths: Sequence[Path], known: Benchmarks, max_steps: int, writer: Writer | None
) -> tuple[list[Row], list[dict[str, Any]]]:
    """The rows to learn from, and the places of the others with reasons."""
    failures, rejected = Failures(), list[dict[str, Any]]()
    found: dict[str, tuple[dict[str, Any], Problem]] = {}
    for path in paths:
        for line, problem in problems_of(path, failures):
            place = {"file": str(path), "line": line, "id": problem.id}
            benchmark = known.found_in(problem.text)
            if benchmark is not None:
                rejected.append(place | {"reason": f"in a benchmark: {benchmark}"})
            elif problem.id in found:
                rejected.append(place | {"reason": "its id occurs a second time"})
            else:
                found[problem.id] = place, problem
    divide = _by_rule if writer is None else _by_writer
    kept = list[Row]()
    for name, result in divide([p for _, p in found.values()], max_steps, writer):
        place, problem = found[name]
        if isinstance(result, NotDividedError):
            rejected.append(place | {"reason": str(result)})
        else:
            kept.append(problem_row("solve", problem) | {"solution": result})
    return kept, rejected + failures.items


Division = tuple[str, str | NotDividedError]


def _by_rule(
    problems: Sequence[Problem], max_steps: int, _writer: Writer | None
) -> Iterator[Division]:
    for problem in problems:
        try:
            yield problem.id, divided_by_rule(problem, max_steps)
        except NotDividedError as error:
            yield problem.id, error


def _by_writer(
    problems: Sequence[Problem], max_steps: int, writer: Writer | None
) -> Iterator[Division]:
    assert writer is not None
    asked = dict[str, Problem]()
    for problem in problems:
        try:
            boxed(problem)
            asked[problem.id] = problem
        except NotDividedError as error:
            yield problem.id, error
    if not asked:
        return
    answers = writer({name: division_prompt(problem) for name, problem in asked.items()})
    for name, problem in asked.items():
        row = answers.get(name)
        try:
            if row is None or row["error"]:
                raise NotDividedError(f"not written: {row and row['error']}")
            yield name, checked(problem, row["text"].strip(), max_steps)
        except NotDividedError as error:
            yield name, error
