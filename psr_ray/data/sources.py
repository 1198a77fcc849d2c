"""Rows from their sources: the embedded arithmetic, files, the Hub, or a function of the user's own.

A broken record is counted and listed with its file, line and reason; it does not end the run. A source
without one usable row does.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from psr_ray.config import SourceConfig
from psr_ray.data.files import PATTERN, Failures, files_of, read_records
from psr_ray.data.formats import clean, problem_from
from psr_ray.data.hub import TRAINING_SETS, hub_file, hub_records
from psr_ray.data.rows import PARTS, pair_row, problem_row, solution_judgement_row
from psr_ray.embedded.arithmetic import Split, generate_problems
from psr_ray.embedded.seed import SHARE_ALIKE, ift_problems, judged_pairs
from psr_ray.embedded.solutions import judged_solutions
from psr_ray.errors import PsrError, last_line
from psr_ray.method.judge import parse_points
from psr_ray.plugins import find
from psr_ray.problems import JudgedPair, JudgedSolution, Problem
from psr_ray.storage.files import Row
from psr_ray.storage.locations import is_hub_id


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
        **{name: clean(record.get(name) or "") for name in PARTS},
    )


def judged_solution_from(record: Row, path: Path, line: int) -> JudgedSolution:
    """A judged solution from a record; ``ValueError`` with the reason where it is none."""
    problem = problem_from(record, path, line)
    points = parse_points(str(record.get("judgement") or ""))
    if problem.solution is None or points is None:
        raise ValueError(
            "no judged solution: `solution` must hold text, `judgement` end with 'Score: 0' to 5"
        )
    return JudgedSolution(problem, problem.solution, clean(record["judgement"]), points)


# The end of a file's name; of a Hub id at most digits follow a dot (NuminaMath-1.5).
FILE_NAME = re.compile(r"\.[A-Za-z]\w*$")
# More rows than any source has.
EVERYTHING = 10**12


def drawn(rows: Iterable[Row], num: int, seed: int) -> list[Row]:
    """At most ``num`` of the rows by chance, in their order; of many rows no more are kept in memory."""
    return [row for _, row in sorted(draws(rows, num, seed))]


def draws(rows: Iterable[Row], num: int, seed: int) -> list[tuple[int, Row]]:
    """The first ``num`` random draws from the rows, with their places; more draws begin with these."""

    def draw(item: tuple[int, Row]) -> bytes:
        return hashlib.sha256(f"{seed}/{item[1]['id']}".encode()).digest()

    return heapq.nsmallest(num, enumerate(rows), key=draw)


RecordFunction = Callable[[SourceConfig, int], Iterable[Row]]


def record_function(kind: str) -> RecordFunction:
    """The user's function that a source's ``kind`` names: it takes the source's settings and the seed,
    and yields records like those of a file. Raises ``PsrError`` where it does not fit."""
    found: RecordFunction = find("data source", kind, {}, ("source", "seed"))
    return found


def own_records(source: SourceConfig, seed: int, failures: Failures) -> Iterator[tuple[int, Row]]:
    """Number and record of each record that the user's function yields."""
    try:
        records = record_function(source.kind)(source, source.seed_in(seed))
        for number, record in enumerate(records, start=1):
            if isinstance(record, dict):
                yield number, record
            else:
                reason = f"expected a dict, found {type(record).__name__}"
                failures.add(Path(source.kind), number, reason)
    except PsrError:
        raise
    except Exception as error:  # whatever the user's code raises
        raise PsrError(f"data source {source.kind}: {last_line(error)}") from error


def records_of(
    source: SourceConfig, seed: int, failures: Failures
) -> Iterator[tuple[Path, int, Row]]:
    """Place, number and record of each record of a source that is not the embedded one."""
    records: Iterator[tuple[int, Row]]
    if source.kind == "file":
        for path in files_of(source.path or ""):
            for line, record in read_records(path, failures):
                yield path, line, record
        return
    if source.kind == "hub":
        where, path = hub_file(source), Path(source.path or "")
        asked = f"@{source.revision}" if source.revision else ""
        rows, failures.revisions[where.dataset + asked] = hub_records(where, source.revision)
        records = enumerate(rows, start=1)
    else:
        path, records = Path(source.kind), own_records(source, seed, failures)
    for line, record in records:
        yield path, line, record


def renamed(source: SourceConfig, record: Row) -> Row:
    """A record whose values stand under our names. ``ValueError`` where a column is not there;
    ``PsrError`` for a Hub dataset, whose records have all the same columns."""
    missing = sorted(set(source.columns.values()) - record.keys())
    if missing:
        there = ", ".join(sorted(record))
        reason = f"no column {', '.join(missing)} (it has {there}); correct `columns`"
        if source.kind == "hub":
            raise PsrError(f"data source {source.path}: {reason}")
        raise ValueError(reason)
    return record | {ours: record[theirs] for ours, theirs in source.columns.items()}


def rows_from(
    source: SourceConfig, seed: int, to_row: Callable[[Row, Path, int], Row], failures: Failures
) -> Iterator[Row]:
    """Task rows of files, the Hub or the user's function."""
    return (row for _, _, row in placed_rows(source, seed, to_row, failures))


def placed_rows(
    source: SourceConfig, seed: int, to_row: Callable[[Row, Path, int], Row], failures: Failures
) -> Iterator[tuple[Path, int, Row]]:
    """The same with place and number; bad records and ids that a file has twice go to ``failures``.
    Where another file has an id already, the file's name goes before it."""
    seen: dict[str, Path] = {}
    num_failures = len(failures.items)
    for path, line, record in records_of(source, seed, failures):
        try:
            row = to_row(renamed(source, record), path, line)
        except ValueError as error:
            failures.add(path, line, str(error))
            continue
        if seen.get(row["id"], path) != path:
            row["id"] = f"{path.stem}/{row['id']}"
        if row["id"] in seen:
            failures.add(path, line, f"id {row['id']!r} occurs a second time")
            continue
        seen[row["id"]] = path
        yield path, line, row
    if not seen:
        reasons = [item["reason"] for item in failures.items[num_failures:]]
        reason = reasons[-1] if reasons else "it is empty"
        raise PsrError(f"data source {source.path or source.kind}: not one usable row ({reason})")


def arithmetic_settings(source: SourceConfig, seed: int) -> dict[str, Any]:
    """Arguments of the embedded source's generators."""
    return {
        "seed": source.seed_in(seed),
        "num_steps": source.num_steps,
        "highest": source.highest_value,
    }


def problem_rows(
    source: SourceConfig,
    split: Split,
    task: str,
    seed: int,
    failures: Failures,
    dataset: str | None = None,
) -> Iterator[Row]:
    """The problems of a source as task rows, as they are read."""
    if source.kind == "arithmetic":
        asked: Split = "dev" if source.split else split
        problems = generate_problems(asked, source.num, **arithmetic_settings(source, seed))
        return (problem_row(task, problem, dataset) for problem in problems)
    rows = rows_from(
        source, seed, lambda *where: problem_row(task, problem_from(*where), dataset), failures
    )
    return islice(rows, source.num)


def ift_rows(source: SourceConfig, seed: int, failures: Failures) -> list[Row]:
    """Solved problems as task rows; the embedded source's solver may be careless."""
    if source.kind != "arithmetic":
        return list(problem_rows(source, "ift", "solve", seed, failures))
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
    rows = rows_from(source, seed, lambda *w: pair_row(pair_from(*w)), failures)
    return list(islice(rows, source.num))


def solution_judgement_rows(source: SourceConfig, seed: int, failures: Failures) -> list[Row]:
    """The judged solutions of a source as task rows."""
    if source.kind == "arithmetic":
        judged = judged_solutions(
            source.num, slip_share=source.slip_share, **arithmetic_settings(source, seed)
        )
        return [solution_judgement_row(item) for item in judged]
    rows = rows_from(
        source, seed, lambda *w: solution_judgement_row(judged_solution_from(*w)), failures
    )
    return list(islice(rows, source.num))


def on_hub(problems: str) -> bool:
    """Whether ``--problems`` names a dataset of the Hub. Raises ``PsrError`` where it names nothing."""
    try:
        files_of(problems)
        return False
    except PsrError as error:
        is_path = bool(FILE_NAME.search(problems)) or Path(problems).is_dir()
        is_id = is_hub_id(problems) and not is_path and PATTERN.isdisjoint(problems)
        if problems in TRAINING_SETS or is_id:
            return True
        if "/" in problems or is_path:
            raise PsrError(f"--problems {problems}: no such file; correct it") from error
        raise PsrError(
            f"--problems {problems}: neither a file nor a Hub id nor one of {', '.join(TRAINING_SETS)}"
        ) from error


def num_in(problems: str, most: int) -> int:
    """How many problems the files hold, counted up to ``most``; of the Hub, ``most`` where not known.

    Raises ``PsrError`` where there are fewer than two: one is to search, one to measure with."""
    if on_hub(problems):
        return min(TRAINING_SETS[problems].num, most) if problems in TRAINING_SETS else most
    source = SourceConfig(kind="file", path=problems, num=most)
    num = sum(1 for _ in problem_rows(source, "train", "search", 0, Failures()))
    if num < 2:
        raise PsrError(f"--problems {problems}: {num} problem; a run needs two at least")
    return num
