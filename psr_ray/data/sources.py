"""The data stage: problems and judged pairs from their sources, as Parquet files of task rows.

    ift.parquet  eft.parquet  eft_solutions.parquet        for M0 → M1
    search-1.parquet …                                     to search, one an iteration
    heldout.parquet  hard.parquet  judge.parquet           to measure every model
    heldout-search.parquet  heldout-sample.parquet         the first held-out problems once more

A broken line of a file is counted and listed in failed.jsonl with its file, line and reason; it
does not end the run. A file without one good row does.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any

from psr_ray.config import Config, SourceConfig
from psr_ray.data.arithmetic import Split, check_disjoint, generate_problems
from psr_ray.data.formats import clean, problem_from
from psr_ray.data.rows import (
    TASK_SCHEMA,
    Row,
    pair_row,
    problem_of,
    problem_row,
    solution_judgement_row,
)
from psr_ray.data.seed.arithmetic import SHARE_ALIKE, ift_problems, judged_pairs
from psr_ray.data.seed.pairs import JudgedPair, JudgedSolution
from psr_ray.data.seed.solutions import judged_solutions
from psr_ray.errors import PsrError
from psr_ray.method.judge import parse_points
from psr_ray.storage.files import write_text
from psr_ray.storage.locations import location
from psr_ray.storage.shards import read_rows, write_rows


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


def search_files(config: Config) -> list[str]:
    """Names of the files with problems to search, one an iteration."""
    return [f"search-{k}" for k in range(1, config.num_iterations + 1)]


def evaluation_files(config: Config, model: str) -> list[str]:
    """Names of the files that a model is measured on; M0 neither searches nor samples."""
    files = ["heldout"]
    if config.data.hard is not None:
        files.append("hard")
    if config.data.judge is not None:
        files.append("judge")
    if model != "M0":
        files += ["heldout-search", "heldout-sample"]
    return files


def write_data(config: Config, folder: Path) -> Row:
    """Write all files of the data stage; returns facts for its manifest."""
    failures = Failures()
    seed, data = config.seed, config.data
    files = {
        "ift": ift_rows(data.ift, seed, failures),
        "eft": pair_rows(data.eft, "eft", seed, failures),
        "heldout": problem_rows(data.heldout, "heldout", "solve", seed, failures),
    }
    if data.eft_solutions is not None:
        files["eft_solutions"] = solution_judgement_rows(data.eft_solutions, seed, failures)
    if data.hard is not None:
        files["hard"] = problem_rows(data.hard, "heldout", "hard", seed, failures)
    if data.judge is not None:
        files["judge"] = pair_rows(data.judge, "judge", seed, failures)
    files |= fresh_problems(config, failures)
    check_disjoint(
        {
            "ift": map(problem_of, files["ift"]),
            "eft": map(problem_of, files["eft"] + files.get("eft_solutions", [])),
            **{
                name: map(problem_of, files.get(name, []))
                for name in ("judge", "heldout", "hard", *search_files(config))
            },
        }
    )
    again = files["heldout"][: config.evaluation.num_search_problems]
    for task in ("search", "sample"):
        files[f"heldout-{task}"] = [row | {"task": task} for row in again]
    for name, rows in files.items():
        write_rows(folder / f"{name}.parquet", rows, TASK_SCHEMA)
    lines = "".join(json.dumps(item) + "\n" for item in failures.items)
    write_text(folder / "failed.jsonl", lines)
    return {
        "rows": {name: len(rows) for name, rows in files.items()},
        "num_failed": len(failures.items),
        "failed_examples": failures.items[:3],
    }


def fresh_problems(config: Config, failures: Failures) -> dict[str, list[Row]]:
    """The problems that each iteration searches; no problem is searched twice."""
    pools: dict[SourceConfig, list[Row]] = {}
    wanted = [config.train_source(k) for k in range(1, config.num_iterations + 1)]
    files: dict[str, list[Row]] = {}
    used: set[str] = set()
    total = sum(source.num for source in wanted)
    for name, source in zip(search_files(config), wanted, strict=True):
        whole = source.model_copy(update={"num": 10**9 if source.kind == "file" else total})
        if whole not in pools:
            pools[whole] = problem_rows(whole, "train", "search", config.seed, failures)
            random.Random(f"problems/{config.seed}").shuffle(pools[whole])
        fresh = [row for row in pools[whole] if row["id"] not in used][: source.num]
        if not fresh:
            raise PsrError(
                f"data.train: no problems left for {name}: {source.path or source.kind} is used up "
                "by earlier iterations; give more problems or a lower `num`"
            )
        used |= {row["id"] for row in fresh}
        files[name] = fresh
    return files
