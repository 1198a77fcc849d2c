"""Building IFT data from worked solutions: decontaminated, divided into steps, what is left out counted.

ift.parquet       problems with ``Step n:`` solutions (``data.ift: {kind: file, path: …/ift.parquet}``)
rejected.jsonl    the others, each with its reason and what it came from
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from psr_ray.config import SourceConfig
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
from psr_ray.data.seed.sources import names_of, problems_of_all, reasons_of
from psr_ray.errors import PsrError
from psr_ray.problems import Problem
from psr_ray.storage.files import Json, Row, write_text
from psr_ray.storage.shards import write_rows

# Prompts by id, to what was written after each.
Writer = Callable[[Mapping[str, str]], Mapping[str, Row]]


def make_ift(
    sources: Sequence[SourceConfig],
    folder: Path,
    known: Benchmarks,
    max_steps: int,
    writer: Writer | None = None,
    seed: int = 0,
) -> Json:
    """Divide the solutions of some sources; writes the files and returns counts.

    ``writer`` has a model divide them (prompts by id to rows with ``text``, ``error``); None: by rule.
    Raises ``PsrError`` where a source cannot be read, and where no solution is kept.
    """
    failures, rejected = Failures(), list[Row]()
    found: dict[str, tuple[Row, Problem]] = {}
    for place, problem in problems_of_all(sources, seed, failures):
        benchmark = known.found_in(problem.text)
        if benchmark is not None:
            rejected.append(place | {"reason": f"in a benchmark: {benchmark}"})
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
    rejected += failures.items
    reasons = reasons_of(rejected)
    write_text(folder / "rejected.jsonl", "".join(json.dumps(item) + "\n" for item in rejected))
    if not kept:
        raise PsrError(
            f"{names_of(sources)}: not one solution could be kept ({dict(reasons)}); give problems with "
            "a `solution` and an `answer`, or have a model divide them"
        )
    random.Random(f"ift/{seed}").shuffle(
        kept
    )  # whoever takes the first rows takes some of each source
    write_rows(folder / "ift.parquet", kept, TASK_SCHEMA)
    return {"kept": len(kept), "rejected": dict(reasons), "revisions": failures.revisions}


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
