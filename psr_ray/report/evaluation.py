"""Figures of one model from the rows its evaluation wrote."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psr_ray.data.rows import Row
from psr_ray.inference.tasks import output_folder
from psr_ray.method.probes import probe_figures
from psr_ray.report.search_figures import SearchFigures, figures_of
from psr_ray.storage.shards import read_rows, shards

Figures = dict[str, Any]


def standard_error(share: float, num: int) -> float:
    """Standard error of a share of ``num`` independent rows (binomial)."""
    return math.sqrt(share * (1 - share) / num)


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and its standard error over the values; None for a single one."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


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
    mean, error = mean_and_error(per_pair)
    return {
        "num_judged_pairs": len(rows),
        "judge_accuracy_fixed": mean,
        "judge_accuracy_fixed_se": error,
        "order_flip_share_fixed": num_flips / len(rows),
        "unparsable_share_fixed": num_unparsable / (2 * len(rows)),
    }


def search_figures(folder: Path) -> SearchFigures:
    """Figures of the searches whose shards lie in a stage's folder."""
    return figures_of(read_rows(shards(output_folder(folder, "search"))))


def pass_at(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that one of ``k`` samples is right, unbiased from ``num_samples`` (arXiv 2107.03374)."""
    if num_samples < k:
        raise ValueError(f"pass@{k} needs at least {k} samples, found {num_samples}")
    return 1 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def sample_figures(rows: list[Row], k: int = 8) -> Figures:
    """pass@k and the number of different answers among the first ``k`` samples, means over problems;
    None with fewer samples."""
    rows = [row for row in rows if row["error"] is None and len(row["samples"]) >= k]
    graded = [row for row in rows if row["answer"] is not None]
    counts = [(len(r["samples"]), sum(bool(s["correct"]) for s in r["samples"])) for r in graded]
    answers = [len({sample["predicted"] for sample in row["samples"][:k]}) for row in rows]
    return {
        f"pass_at_{k}": sum(pass_at(n, c, k) for n, c in counts) / len(counts) if counts else None,
        "distinct_answers": sum(answers) / len(answers) if answers else None,
    }


def majority(samples: list[Row]) -> bool:
    """Whether the answer given most often is right; the first given wins a draw."""
    answers = [sample["predicted"] for sample in samples if sample["predicted"] is not None]
    if not answers:
        return False
    best = max(dict.fromkeys(answers), key=answers.count)
    return any(sample["correct"] for sample in samples if sample["predicted"] == best)


def test_time_figures(solved: list[Row], searched: list[Row], sampled: list[Row]) -> Figures:
    """Greedy, step search with the model's own judge, and majority vote on the same problems.

    The vote takes as many samples a problem as the search's tokens (candidates and judgements) pay
    for on average, or all there are: ``majority_tokens`` says what they cost. ``correct`` holds a
    character a problem, in the order of their ids.
    """
    greedy = {row["id"]: bool(row["correct"]) for row in solved}
    search = {row["id"]: row for row in searched if row["answer"] is not None}
    votes = {row["id"]: row for row in sampled if row["error"] is None}
    ids = sorted(search.keys() & votes.keys())
    if not ids:
        return {}
    budget = sum(
        (search[name]["num_sampled_tokens"] or 0) + (search[name]["num_judge_tokens"] or 0)
        for name in ids
    ) / len(ids)
    num_samples = min(len(votes[name]["samples"]) for name in ids)
    spent = [0.0] * (num_samples + 1)
    for k in range(1, num_samples + 1):
        tokens = sum(votes[name]["samples"][k - 1]["num_tokens"] for name in ids)
        spent[k] = spent[k - 1] + tokens / len(ids)
    k = max([k for k in range(1, num_samples + 1) if spent[k] <= budget], default=1)
    correct = {
        "greedy": [greedy.get(name, False) for name in ids],
        "search": [bool(search[name]["correct"]) for name in ids],
        "majority": [majority(votes[name]["samples"][:k]) for name in ids],
    }
    return {
        "num_problems": len(ids),
        **{name: sum(values) / len(values) for name, values in correct.items()},
        "search_tokens": budget,
        "majority_tokens": spent[k],
        "majority_samples": k,
        "correct": {name: characters(values) for name, values in correct.items()},
    }


def characters(values: list[bool]) -> str:
    """``1`` for true, ``0`` for false."""
    return "".join("01"[value] for value in values)


def correct_characters(folder: Path, task: str = "solve") -> str:
    """Which problems of an evaluation a model solved: a character a problem, in order of their ids."""
    rows = sorted(read_rows(shards(output_folder(folder, task))), key=lambda row: str(row["id"]))
    return characters([bool(row["correct"]) for row in rows if row["answer"] is not None])


def model_figures(folder: Path, first: Path, before: Path) -> Figures:
    """All figures of an evaluation stage: greedy accuracy, fixed pairs, searches with its own judge,
    samples, probes. ``first`` and ``before``: the evaluations of M1 and of M(k-1)."""

    def rows(task: str) -> list[Row]:
        return list(read_rows(shards(output_folder(folder, task))))

    solved, hard = rows("solve"), rows("hard")
    figures = solution_figures(solved) | judge_figures(rows("judge"))
    if hard:
        on_hard = solution_figures(hard)
        figures["hard"] = {
            name: on_hard[name] for name in ("num_problems", "accuracy", "accuracy_se")
        }
    searched, sampled = rows("search"), rows("sample")
    figures |= sample_figures(sampled)
    figures["search"] = figures_of(searched).summary()
    figures["test_time"] = test_time_figures(solved, searched, sampled)
    figures["probes"] = probe_figures(folder, first, before)
    return figures
