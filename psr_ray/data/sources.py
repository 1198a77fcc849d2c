"""Rows from their sources: files of problems and of judged rows, or the embedded arithmetic.

A broken line of a file is counted and listed with its file, line and reason; it does not end the run. A
file without one good row does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any

from psr_ray.config import SourceConfig
from psr_ray.data.formats import clean, problem_from
from psr_ray.data.rows import pair_row, problem_row, solution_judgement_row
from psr_ray.data.seed.solutions import judged_solutions
from psr_ray.embedded.arithmetic import Split, generate_problems
from psr_ray.embedded.seed import SHARE_ALIKE, ift_problems, judged_pairs
from psr_ray.errors import PsrError
from psr_ray.method.judge import parse_points
from psr_ray.problems import JudgedPair, JudgedSolution, Problem
from psr_ray.storage.files import Row
from psr_ray.storage.locations import location
from psr_ray.storage.shards import read_rows


@dataclass
class Failures:
    """Rows of input files that could not be used."""

    items: list[dict[str, Any]] = field(default_factory=list)

    def add(self, path: Path, line: int, reason: str) -> None:
        self.items.append({"file": str(path), "line": line, "reason": reason})


def read_records(path: Path, failures: Failures) -> Iterator[tuple[int, Row]]:
    """Line (or row) number and object of each good line of a JSONL or Parquet file."""
    if not path.is_file():
        raise PsrError(f"problem file {path}: no such file; mend `path` in the config's `data`")
    if path.suffix == ".parquet":
        remedy = "mend it, or `path` in the config's `data`"
        yield from enumerate(read_rows([path], remedy), start=1)
        return
    if path.suffix not in (".jsonl", ".json"):
        raise PsrError(f"problem file {path}: give .jsonl (an object a line) or .parquet")
    with path.open("rb") as file, TextIOWrapper(file, "utf-8", "replace") as lines:
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


def problems_of(path: Path, failures: Failures) -> Iterator[tuple[int, Problem]]:
    """Line and problem of each good record of a file."""
    for line, record in read_records(path, failures):
        try:
            yield line, problem_from(record, path, line)
        except ValueError as error:
            failures.add(path, line, str(error))


def pair_from(record: Row, path: Path, line: int) -> JudgedPair:
    """A judged pair from a record; ``ValueError`` with the reason where it is none."""
    missing = [k for k in ("step_a", "step_b", "judgement", "verdict") if not record.get(k)]
    if missing:
        raise ValueError(f"no judged pair: {', '.join(missing)} missing")
    if record["verdict"] not in ("A", "B"):
        raise ValueError(f"verdict {record['verdict']!r}: must be A or B")
    steps_so_far = record.get("steps_so_far") or []
    if not isinstance(steps_so_far, list):
        raise ValueError("steps_so_far: must be a list of texts")
    return JudgedPair(
        problem_from(record, path, line),
        [clean(step) for step in steps_so_far],
        clean(record["step_a"]),
        clean(record["step_b"]),
        clean(record["judgement"]),
        record["verdict"],
    )


def judged_solution_from(record: Row, path: Path, line: int) -> JudgedSolution:
    """A judged whole solution from a record; ``ValueError`` with the reason where it is none."""
    problem = problem_from(record, path, line)
    points = parse_points(str(record.get("judgement") or ""))
    if problem.solution is None or points is None:
        raise ValueError(
            "no judged solution: `solution` must hold text, `judgement` end with 'Score: 0' to 5"
        )
    return JudgedSolution(problem, problem.solution, clean(record["judgement"]), points)


def from_file(
    source: SourceConfig, to_row: Callable[[Row, Path, int], Row], failures: Failures
) -> Iterator[Row]:
    """Task rows of a file; bad records go to ``failures``, a second use of an id too."""
    path = location(source.path or "")
    seen: set[str] = set()
    for line, record in read_records(path, failures):
        try:
            row = to_row(record, path, line)
        except ValueError as error:
            failures.add(path, line, str(error))
            continue
        if row["id"] in seen:
            failures.add(path, line, f"id {row['id']!r} occurs a second time")
            continue
        seen.add(row["id"])
        yield row
    if not seen:
        reason = failures.items[-1]["reason"] if failures.items else "it is empty"
        raise PsrError(f"problem file {path}: not one usable row ({reason})")


def arithmetic_settings(source: SourceConfig, seed: int) -> dict[str, Any]:
    """Arguments of the embedded source's generators."""
    return {
        "seed": seed if source.seed is None else source.seed,
        "num_steps": source.num_steps,
        "highest": source.highest_value,
    }


def problem_rows(
    source: SourceConfig, split: Split, task: str, seed: int, failures: Failures
) -> list[Row]:
    """The problems of a source as task rows."""
    if source.kind == "arithmetic":
        problems = generate_problems(
            source.split or split, source.num, **arithmetic_settings(source, seed)
        )
        return [problem_row(task, problem) for problem in problems]
    rows = from_file(source, lambda *where: problem_row(task, problem_from(*where)), failures)
    return list(islice(rows, source.num))


def ift_rows(source: SourceConfig, seed: int, failures: Failures) -> list[Row]:
    """Solved problems as task rows; the embedded source's solver may be careless."""
    if source.kind == "file":
        return problem_rows(source, "ift", "solve", seed, failures)
    solved = ift_problems(
        source.num, slip_share=source.slip_share, **arithmetic_settings(source, seed)
    )
    return [problem_row("solve", problem) for problem in solved]


def pair_rows(source: SourceConfig, split: Split, seed: int, failures: Failures) -> list[Row]:
    """The judged pairs of a source as task rows; in a test set exactly one step is right."""
    if source.kind == "arithmetic":
        alike = 0.0 if split == "judge" else SHARE_ALIKE
        pairs = judged_pairs(
            split, source.num, share_alike=alike, **arithmetic_settings(source, seed)
        )
        return [pair_row(pair) for pair in pairs]
    return list(islice(from_file(source, lambda *w: pair_row(pair_from(*w)), failures), source.num))


def solution_judgement_rows(source: SourceConfig, seed: int, failures: Failures) -> list[Row]:
    """The judged whole solutions of a source as task rows."""
    if source.kind == "arithmetic":
        judged = judged_solutions(
            source.num, slip_share=source.slip_share, **arithmetic_settings(source, seed)
        )
        return [solution_judgement_row(item) for item in judged]
    rows = from_file(source, lambda *w: solution_judgement_row(judged_solution_from(*w)), failures)
    return list(islice(rows, source.num))
