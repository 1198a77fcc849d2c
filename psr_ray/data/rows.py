"""The rows that engines work on.

A *task row* is a problem to solve, sample or search, a judged pair to judge again, or a probe; all
share one schema so that one pool of engines takes them in one stream.
"""

from __future__ import annotations

import pyarrow as pa

from psr_ray.problems import JudgedPair, JudgedSolution, Problem
from psr_ray.storage.files import Row

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
