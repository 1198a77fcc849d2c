"""Figures of one model from the rows its evaluation wrote."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from psr_ray.preferences import SearchFigures, figures_of
from psr_ray.rows import Row, read_rows, shards
from psr_ray.tasks import output_folder

Figures = dict[str, Any]


def standard_error(share: float, num: int) -> float:
    """Standard error of a share of ``num`` independent rows (binomial)."""
    return math.sqrt(share * (1 - share) / num)


def solution_figures(rows: list[Row]) -> Figures:
    """Greedy accuracy with its standard error, steps per solution, tokens per step.

    A row that failed counts as wrong; rows without a known answer are left out of the accuracy.
    """
    graded = [row for row in rows if row["answer"] is not None]
    accuracy = sum(bool(row["correct"]) for row in graded) / len(graded) if graded else None
    done = [row for row in rows if row["error"] is None]
    with_steps = [row for row in done if row["num_steps"]]
    num_steps = sum(row["num_steps"] for row in with_steps)
    return {
        "num_problems": len(graded),
        "num_failed": len(rows) - len(done),
        "accuracy": accuracy,
        "accuracy_se": None if accuracy is None else standard_error(accuracy, len(graded)),
        "steps_per_solution": num_steps / len(with_steps) if with_steps else None,
        "tokens_per_step": (
            sum(row["num_tokens"] for row in with_steps) / num_steps if num_steps else None
        ),
        "unboxed_share": sum(row["predicted"] is None for row in rows) / len(rows),
        "cut_off_share": sum(row["finish"] == "length" for row in rows) / len(rows),
    }


def judge_figures(rows: list[Row]) -> Figures:
    """Judge accuracy on the fixed pairs, a mean over both orders; a missing verdict is wrong.

    The standard error is over pairs: the two orders of a pair are one observation.
    """
    if not rows:
        return {"judge_accuracy_fixed": None, "num_judged_pairs": 0}
    per_pair, num_flips, num_unparsable = [], 0, 0
    for row in rows:
        truth = float(row["verdict"] == "A") if row["verdict"] else None
        first, second = row["first_order"], row["second_order"]
        right = [
            value is not None and truth is not None and abs(value - wanted) < 0.5
            for value, wanted in ((first, truth), (second, None if truth is None else 1 - truth))
            if wanted is not None
        ]
        per_pair.append(sum(right) / 2)
        num_unparsable += (first is None) + (second is None)
        num_flips += first is not None and second is not None and (first > 0.5) == (second > 0.5)
    mean = sum(per_pair) / len(per_pair)
    variance = sum((value - mean) ** 2 for value in per_pair) / max(len(per_pair) - 1, 1)
    return {
        "num_judged_pairs": len(rows),
        "judge_accuracy_fixed": mean,
        "judge_accuracy_fixed_se": math.sqrt(variance / len(per_pair)),
        "order_flip_share_fixed": num_flips / len(rows),
        "unparsable_share_fixed": num_unparsable / (2 * len(rows)),
    }


def search_figures(folder: Path) -> SearchFigures:
    """Figures of the searches whose shards lie in a stage's folder."""
    return figures_of(read_rows(shards(output_folder(folder, "search"))))


def model_figures(folder: Path) -> Figures:
    """All figures of an evaluation stage; ``search`` only where the model searched there."""
    solutions = list(read_rows(shards(output_folder(folder, "solve"))))
    judgements = list(read_rows(shards(output_folder(folder, "judge"))))
    figures = solution_figures(solutions) | judge_figures(judgements)
    if shards(output_folder(folder, "search")):
        figures["search"] = search_figures(folder).summary()
    return figures
