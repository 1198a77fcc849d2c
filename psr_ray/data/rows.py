"""The rows that engines work on, and where their results go.

A *task row* is a problem to solve, sample or search, a judged pair to judge again, or a probe; all
share one schema, so that one pool of engines takes them in one stream.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from psr_ray.problems import JudgedPair, JudgedSolution, Problem
from psr_ray.storage.files import Row
from psr_ray.storage.shards import Key

TASK_SCHEMA = pa.schema(
    [
        ("task", pa.string()),  # what is done with it: a name in psr_ray.inference.tasks.TASKS
        ("dataset", pa.string()),  # with results of its own (hard, benchmark), else null
        ("id", pa.string()),
        ("problem", pa.string()),
        ("answer", pa.string()),
        ("solution", pa.string()),
        ("plan", pa.string()),
        ("steps_so_far", pa.list_(pa.string())),
        ("step_a", pa.string()),
        ("step_b", pa.string()),
        ("judgement", pa.string()),
        ("work", pa.string()),
        ("critique_a", pa.string()),
        ("critique_b", pa.string()),
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


# Parts of a judgement, which `judge.mode: shared` asks for one by one.
PARTS = ("work", "critique_a", "critique_b")


def output_name(task: str, dataset: str | None = None) -> str:
    """Name of the results of one task on one of several sets of problems."""
    return task if dataset is None else f"{dataset}-{task}"


def output_folder(stage: Path, task: str, dataset: str | None = None) -> Path:
    """The folder of those results in a stage's folder."""
    return stage / output_name(task, dataset)


def key_of(row: Row) -> Key:
    """The identity of a task row within its stage."""
    return output_name(row["task"], row.get("dataset")), row["id"]


def problem_row(task: str, problem: Problem, dataset: str | None = None) -> Row:
    """A problem as a task row."""
    return {
        "task": task,
        "dataset": dataset,
        "id": problem.id,
        "problem": problem.text,
        "answer": problem.answer,
        "solution": problem.solution,
        "plan": problem.plan,
    }


def solution_judgement_row(judged: JudgedSolution) -> Row:
    """A judged solution as a task row; its points are in ``verdict``."""
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
        **{name: getattr(pair, name) for name in PARTS},
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
        **{name: row[name] or "" for name in PARTS},
    )
