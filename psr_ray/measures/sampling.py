"""Figures of sampled solutions and of search at test time: pass@k, majority, best-of-k, equal tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from psr_ray.data.rows import Row
from psr_ray.measures.intervals import mean_and_error

Figures = dict[str, Any]


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
    passes = [pass_at(n, c, k) for n, c in counts]
    average, error = mean_and_error(passes) if passes else (None, None)
    answers = [len({sample["predicted"] for sample in row["samples"][:k]}) for row in rows]
    return {
        f"pass_at_{k}": average,
        f"pass_at_{k}_se": error,
        "distinct_answers": sum(answers) / len(answers) if answers else None,
    }


def majority(samples: list[Row]) -> bool:
    """Whether the answer given most often is right; the first given wins a draw."""
    answers = [sample["predicted"] for sample in samples if sample["predicted"] is not None]
    if not answers:
        return False
    best = max(dict.fromkeys(answers), key=answers.count)
    return any(sample["correct"] for sample in samples if sample["predicted"] == best)


def by_number(rows: list[Row]) -> Figures:
    """pass@k, majority of the first k, and best-of-k by the model's own judge, means over the problems
    with known answers; k doubles up to the number of samples.

    Where the model did not compare the solutions (none ended, or they are too long for its judge) it is
    wrong; ``num_judged`` counts the other problems.
    """
    graded = [row for row in rows if row["error"] is None and row["answer"] is not None]
    if not graded:
        return {}
    num_samples = min(len(row["samples"]) for row in graded)
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128) if k < num_samples] + [num_samples]
    counts = [(len(r["samples"]), sum(bool(s["correct"]) for s in r["samples"])) for r in graded]
    figures: Figures = {
        "num_problems": len(graded),
        "pass_at": {str(k): mean([pass_at(n, c, k) for n, c in counts]) for k in ks},
        "majority_at": {str(k): mean([majority(r["samples"][:k]) for r in graded]) for k in ks},
        "sample_tokens": mean([row["num_tokens"] for row in graded]),
    }
    judged = [row for row in graded if row.get("best") is not None]
    if judged:
        right = [bool(row["samples"][row["best"]]["correct"]) for row in judged]
        figures["best_of"] = {
            "num_samples": num_samples,
            "num_judged": len(judged),
            "accuracy": sum(right) / len(graded),
            "tokens": mean([row["num_tokens"] + row["num_judge_tokens"] for row in graded]),
        }
    return figures


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


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
