"""The rows that engines work on: Arrow schemas, and Parquet shards written exactly once.

A *task row* is a problem to solve, sample or search, a judged pair to judge again, or a probe; all
share one schema so that one pool of engines takes them in one stream.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from psr_ray.problems import Problem
from psr_ray.seed.pairs import JudgedPair, JudgedSolution

Row = dict[str, Any]

TASK_SCHEMA = pa.schema(
    [
        ("task", pa.string()),  # solve | hard | sample | search | judge | probe
        ("id", pa.string()),
        ("problem", pa.string()),
        ("answer", pa.string()),
        ("solution", pa.string()),
        ("plan", pa.string()),
        ("steps_so_far", pa.list_(pa.string())),
        ("step_a", pa.string()),
        ("step_b", pa.string()),
        ("judgement", pa.string()),
        ("verdict", pa.string()),
        ("prefix_ids", pa.list_(pa.int32())),
        (
            "candidates",
            pa.list_(
                pa.struct(
                    [
                        ("text", pa.string()),
                        ("token_ids", pa.list_(pa.int32())),
                        ("count", pa.int32()),
                        ("ended", pa.bool_()),
                        ("score", pa.float64()),
                    ]
                )
            ),
        ),
    ]
)


def problem_row(task: str, problem: Problem) -> Row:
    """A problem as a task row."""
    return {
        "task": task,
        "id": problem.id,
        "problem": problem.text,
        "answer": problem.answer,
        "solution": problem.solution,
        "plan": problem.plan,
    }


def solution_judgement_row(judged: JudgedSolution) -> Row:
    """A judged whole solution as a task row; its points stand in ``verdict``."""
    return problem_row("judge", judged.problem) | {
        "solution": judged.solution,
        "judgement": judged.judgement,
        "verdict": str(judged.points),
    }


def pair_row(pair: JudgedPair) -> Row:
    """A judged pair as a task row."""
    return problem_row("judge", pair.problem) | {
        "steps_so_far": pair.steps_so_far,
        "step_a": pair.step_a,
        "step_b": pair.step_b,
        "judgement": pair.judgement,
        "verdict": pair.verdict,
    }


def problem_of(row: Row) -> Problem:
    """The problem of a task row."""
    return Problem(
        id=row["id"],
        text=row["problem"],
        answer=row["answer"],
        solution=row["solution"],
        plan=row["plan"],
    )


def pair_of(row: Row) -> JudgedPair:
    """The judged pair of a task row."""
    return JudgedPair(
        problem_of(row),
        list(row["steps_so_far"]),
        row["step_a"],
        row["step_b"],
        row["judgement"],
        row["verdict"],
    )


def write_rows(path: Path, rows: Sequence[Row], schema: pa.Schema) -> None:
    """Write a Parquet file that is either whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), unfinished)
    os.replace(unfinished, path)


def write_shard(folder: Path, rows: Sequence[Row], schema: pa.Schema) -> Path:
    """Write rows as one shard, named after their ids: the same rows never stand in two shards."""
    name = hashlib.sha256("\n".join(sorted(row["id"] for row in rows)).encode()).hexdigest()[:16]
    path = folder / f"part-{name}.parquet"
    write_rows(path, rows, schema)
    return path


def shards(folder: Path) -> list[Path]:
    """The finished shards of a folder, in a fixed order."""
    return sorted(folder.glob("part-*.parquet"))


def read_rows(paths: Iterable[Path]) -> Iterator[Row]:
    """All rows of some Parquet files, one at a time."""
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256):
            yield from batch.to_pylist()


def finished_ids(folder: Path) -> set[str]:
    """Ids of the rows that finished shards hold."""
    return {
        value
        for path in shards(folder)
        for value in pq.read_table(path, columns=["id"])["id"].to_pylist()
    }
