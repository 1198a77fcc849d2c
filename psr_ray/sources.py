"""The data stage: problems and judged pairs from their sources, as Parquet files of task rows.

    ift.parquet  eft.parquet  judge.parquet  heldout.parquet  search-1.parquet …  health.parquet

A broken line of a file is counted and listed in failed.jsonl with its file, line and reason; it
does not end the run. A file without one good row does.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from psr_ray.arithmetic import Split, check_disjoint, generate_problems
from psr_ray.config import Config, SourceConfig
from psr_ray.errors import PsrError
from psr_ray.problems import Problem
from psr_ray.rows import TASK_SCHEMA, Row, pair_row, problem_of, problem_row, read_rows, write_rows
from psr_ray.runs import write_text
from psr_ray.seed.arithmetic import SHARE_ALIKE, ift_problems, judged_pairs
from psr_ray.seed.pairs import JudgedPair

TEXT_KEYS = ("problem", "question", "text")


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
        yield from enumerate(read_rows([path]), start=1)
        return
    if path.suffix not in (".jsonl", ".json"):
        raise PsrError(f"problem file {path}: give .jsonl (an object a line) or .parquet")
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                failures.add(path, number, f"not JSON: {error.msg} at column {error.colno}")
                continue
            if isinstance(record, dict):
                yield number, record
            else:
                failures.add(path, number, f"expected an object, found {type(record).__name__}")


def problem_from(record: Row, path: Path, line: int) -> Problem:
    """A problem from a record; ``ValueError`` with the reason where it is none."""
    text = next((record[key] for key in TEXT_KEYS if record.get(key)), None)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"no problem text: one of {', '.join(TEXT_KEYS)} must hold text")
    answer, solution = record.get("answer"), record.get("solution")
    if isinstance(answer, str) and "####" in answer:  # GSM8K: solution and answer in one field
        solution, answer = solution or answer, answer.rsplit("####", 1)[1].strip()
    return Problem(
        id=str(record.get("id") or record.get("unique_id") or f"{path.stem}/{line}"),
        text=text.strip(),
        answer=None if answer is None else str(answer),
        solution=None if solution is None else str(solution),
        plan=record.get("plan"),
    )


def pair_from(record: Row, path: Path, line: int) -> JudgedPair:
    """A judged pair from a record; ``ValueError`` with the reason where it is none."""
    missing = [k for k in ("step_a", "step_b", "judgement", "verdict") if not record.get(k)]
    if missing:
        raise ValueError(f"no judged pair: {', '.join(missing)} missing")
    if record["verdict"] not in ("A", "B"):
        raise ValueError(f"verdict {record['verdict']!r}: must be A or B")
    return JudgedPair(
        problem_from(record, path, line),
        list(record.get("steps_so_far") or []),
        record["step_a"],
        record["step_b"],
        record["judgement"],
        record["verdict"],
    )


def from_file(
    source: SourceConfig, to_row: Callable[[Row, Path, int], Row], failures: Failures
) -> Iterator[Row]:
    """Task rows of a file; bad records go to ``failures``, a second use of an id too."""
    path = Path(source.path or "")
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


def problem_rows(
    source: SourceConfig, split: Split, task: str, seed: int, failures: Failures
) -> list[Row]:
    """The problems of a source as task rows."""
    if source.kind == "arithmetic":
        problems = generate_problems(split, source.num, seed=seed, num_steps=source.num_steps)
        return [problem_row(task, problem) for problem in problems]
    rows = from_file(source, lambda *where: problem_row(task, problem_from(*where)), failures)
    return list(islice(rows, source.num))


def ift_rows(source: SourceConfig, seed: int, failures: Failures) -> list[Row]:
    """Solved problems as task rows; the embedded source's solver may be careless."""
    if source.kind == "file":
        return problem_rows(source, "ift", "solve", seed, failures)
    solved = ift_problems(
        source.num, seed=seed, num_steps=source.num_steps, slip_share=source.slip_share
    )
    return [problem_row("solve", problem) for problem in solved]


def pair_rows(source: SourceConfig, split: Split, seed: int, failures: Failures) -> list[Row]:
    """The judged pairs of a source as task rows; in a test set exactly one step is right."""
    if source.kind == "arithmetic":
        alike = 0.0 if split == "judge" else SHARE_ALIKE
        pairs = judged_pairs(split, source.num, seed=seed, share_alike=alike)
        return [pair_row(pair) for pair in pairs]
    return list(islice(from_file(source, lambda *w: pair_row(pair_from(*w)), failures), source.num))


def search_files(config: Config) -> list[str]:
    """Names of the files with problems to search, one an iteration and one for the last model."""
    return [f"search-{k}" for k in range(1, config.num_iterations + 1)] + ["health"]


def write_data(config: Config, folder: Path) -> Row:
    """Write all files of the data stage; returns facts for its manifest."""
    failures = Failures()
    seed = config.seed
    files = {
        "ift": ift_rows(config.data.ift, seed, failures),
        "eft": pair_rows(config.data.eft, "eft", seed, failures),
        "heldout": problem_rows(config.data.heldout, "heldout", "solve", seed, failures),
    }
    if config.data.judge is not None:
        files["judge"] = pair_rows(config.data.judge, "judge", seed, failures)
    files |= fresh_problems(config, failures)
    check_disjoint(
        {
            "ift": map(problem_of, files["ift"]),
            "eft": map(problem_of, files["eft"]),
            "judge": map(problem_of, files.get("judge", [])),
            "heldout": map(problem_of, files["heldout"]),
            **{name: map(problem_of, files[name]) for name in search_files(config)},
        }
    )
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
    """Problems to search: each iteration's, and the last model's; no problem is searched twice."""
    pools: dict[SourceConfig, list[Row]] = {}
    wanted = [config.train_source(k) for k in range(1, config.num_iterations + 1)]
    health = wanted[-1] if wanted else config.data.train[-1]
    files: dict[str, list[Row]] = {}
    used: set[str] = set()
    sizes = [source.num for source in wanted] + [config.evaluation.num_search_problems]
    for name, source, size in zip(search_files(config), [*wanted, health], sizes, strict=True):
        whole = source.model_copy(update={"num": 10**9 if source.kind == "file" else sum(sizes)})
        if whole not in pools:
            pools[whole] = problem_rows(whole, "train", "search", config.seed, failures)
            random.Random(f"problems/{config.seed}").shuffle(pools[whole])
        fresh = [row for row in pools[whole] if row["id"] not in used][:size]
        if not fresh:
            raise PsrError(
                f"data.train: no problems left for {name}: {source.path or source.kind} is used up "
                "by earlier iterations; give more problems or a lower `num`"
            )
        used |= {row["id"] for row in fresh}
        files[name] = fresh
    return files
