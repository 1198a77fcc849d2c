"""Figures of greedy solutions."""

from __future__ import annotations

from typing import Any

from psr_ray.measures.intervals import standard_error
from psr_ray.storage.files import Row

Figures = dict[str, Any]


def solution_figures(rows: list[Row]) -> Figures:
    """Greedy accuracy with its standard error, steps per solution, tokens per step.

    A row that failed counts as wrong; rows without a known answer are left out of the accuracy. An
    answer counts where it is boxed; ``accuracy_with_unboxed`` takes others as well, as they are found by
    ``psr_ray.answers.stated_answer``. ``steps_right_share``: solutions of which every step is right,
    among those whose steps can be graded.
    """
    graded = [row for row in rows if row["answer"] is not None]
    accuracy = sum(bool(row["correct"]) for row in graded) / len(graded) if graded else None
    found = [bool(row["correct"]) or bool(row.get("unboxed_correct")) for row in graded]
    done = [row for row in rows if row["error"] is None]
    by_step = [row["steps_right"] for row in done if row.get("steps_right") is not None]
    with_steps = [row for row in done if row["num_steps"]]
    num_steps = sum(row["num_steps"] for row in with_steps)
    return {
        "num_problems": len(graded),
        "num_failed": len(rows) - len(done),
        "steps_right_share": sum(by_step) / len(by_step) if by_step else None,
        "accuracy": accuracy,
        "accuracy_se": None if accuracy is None else standard_error(accuracy, len(graded)),
        "accuracy_with_unboxed": sum(found) / len(graded) if graded else None,
        "steps_per_solution": num_steps / len(with_steps) if with_steps else None,
        "tokens_per_step": (
            sum(row["num_tokens"] for row in with_steps) / num_steps if num_steps else None
        ),
        "unboxed_share": sum(row["predicted"] is None for row in rows) / len(rows),
        "cut_off_share": sum(row["finish"] == "length" for row in rows) / len(rows),
    }
