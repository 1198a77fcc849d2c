"""Figures of sampled solutions and of search at test time: pass@k, majority vote, best-of-k, and what
they cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from psr_ray.answers import groups_of
from psr_ray.measures.intervals import mean_and_error
from psr_ray.measures.solutions import Figures
from psr_ray.storage.files import Row

T = TypeVar("T")


def pass_at(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that one of ``k`` samples is right, unbiased from ``num_samples`` (arXiv 2107.03374)."""
    if num_samples < k:
        raise ValueError(f"pass@{k} needs at least {k} samples, found {num_samples}")
    return 1 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def known(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """The rows with a known answer, and those of them that did not fail. A row that failed has no
    samples and counts as wrong: a model must not gain by the problems on which it fails."""
    graded = [row for row in rows if row["answer"] is not None]
    return graded, [row for row in graded if row["error"] is None]


def pass_rates(graded: list[Row], k: int) -> list[float]:
    """pass@k of each problem; 0 for a row that failed."""
    return [
        0.0
        if row["error"] is not None
        else pass_at(len(row["samples"]), sum(bool(s["correct"]) for s in row["samples"]), k)
        for row in graded
    ]


def sample_figures(rows: list[Row], k: int = 8) -> Figures:
    """pass@k, a mean over the problems with known answers, and the number of different answers among the
    first ``k`` samples, a mean over the rows that did not fail; None with fewer samples."""
    rows = [row for row in rows if row["error"] is not None or len(row["samples"]) >= k]
    graded, done = known(rows)
    average, error = mean_and_error(pass_rates(graded, k)) if done else (None, None)
    sampled = [row["samples"] for row in rows if row["error"] is None]
    answers = [len(set(groups(samples)[:k])) for samples in sampled]
    return {
        f"pass_at_{k}": average,
        f"pass_at_{k}_se": error,
        "distinct_answers": mean(answers) if answers else None,
    }


def groups(samples: list[Row]) -> tuple[int | None, ...]:
    """The group of equal answers that each sample is in, numbered as they come; None: no answer."""
    return groups_of(tuple(sample["predicted"] for sample in samples))


def majority(samples: list[Row], k: int | None = None) -> bool:
    """Whether the answer that most of the first ``k`` samples give is right, in the spelling that most
    of them use; the first given wins a draw. Without any answer it is wrong."""
    voters = list(zip(groups(samples), samples, strict=True))[:k]
    votes = [group for group, _ in voters if group is not None]
    if not votes:
        return False
    largest = most_common(votes)
    chosen = [sample for group, sample in voters if group == largest]
    spelling = most_common([sample["predicted"] for sample in chosen])
    return any(sample["correct"] for sample in chosen if sample["predicted"] == spelling)


def most_common(values: Sequence[T]) -> T:
    """The value that occurs most often, the first of several."""
    return Counter(values).most_common(1)[0][0]


def by_number(rows: list[Row]) -> Figures:
    """pass@k, majority of the first k, and best-of-k by the model's own judge, means over the problems
    with known answers; k doubles up to the number of samples.

    A row that failed is wrong in all of them; tokens are means over the other rows. Where the model did
    not compare the solutions (none ended, or they are too long for its judge) it is wrong;
    ``num_judged`` counts the other problems.
    """
    graded, done = known(rows)
    if not done:
        return {}
    num_samples = min(len(row["samples"]) for row in done)
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128) if k < num_samples] + [num_samples]
    figures: Figures = {
        "num_problems": len(graded),
        "pass_at": {str(k): mean(pass_rates(graded, k)) for k in ks},
        "majority_at": {
            str(k): mean([majority(row.get("samples") or [], k) for row in graded]) for k in ks
        },
        "sample_tokens": mean([row["num_tokens"] for row in done]),
    }
    judged = [row for row in done if row.get("best") is not None]
    if judged:
        right = [bool(row["samples"][row["best"]]["correct"]) for row in judged]
        figures["best_of"] = {
            "num_samples": num_samples,
            "num_judged": len(judged),
            "accuracy": sum(right) / len(graded),
            "tokens": mean([row["num_tokens"] + row["num_judge_tokens"] for row in done]),
        }
    return figures


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def test_time_figures(solved: list[Row], searched: list[Row], sampled: list[Row]) -> Figures:
    """Greedy, step search with the model's own judge, and majority vote on the same problems.

    The vote takes as many samples a problem as the search's tokens (candidates and judgements) pay
    for on average, or all there are: ``majority_tokens`` is their cost. ``correct`` holds a
    character a problem, in the order of their ids: each problem with a known answer has its place in
    every seed, for a row that failed is wrong. Tokens are means over the rows that did not fail (0 where
    all did).
    """
    if not searched or not sampled:
        return {}
    ids = known_ids(solved, searched, sampled)
    if not ids:
        return {}
    greedy = {row["id"]: bool(row["correct"]) for row in solved}
    searches, votes = ({row["id"]: row for row in rows} for rows in (searched, sampled))
    costs = [search_cost(searches[name]) for name in ids if is_done(searches.get(name))]
    budget = mean(costs) if costs else 0.0
    voters = [votes[name]["samples"] for name in ids if is_done(votes.get(name))]
    k, spent = affordable(voters, budget)
    correct = {
        "greedy": [greedy.get(name, False) for name in ids],
        "search": [bool(searches.get(name, {}).get("correct")) for name in ids],
        "majority": [majority(votes.get(name, {}).get("samples") or [], k) for name in ids],
    }
    return {
        "num_problems": len(ids),
        **{name: mean(values) for name, values in correct.items()},
        "search_tokens": budget,
        "majority_tokens": spent,
        "majority_samples": k,
        "correct": {name: characters(values) for name, values in correct.items()},
    }


def known_ids(solved: list[Row], searched: list[Row], sampled: list[Row]) -> list[str]:
    """Ids of the problems searched or sampled whose answer any of the rows knows: which row of a problem
    failed, and in which seed, must not matter."""
    everything = [*solved, *searched, *sampled]
    answered = {row["id"] for row in everything if row.get("answer") is not None}
    return sorted(answered & {row["id"] for row in [*searched, *sampled]})


def is_done(row: Row | None) -> bool:
    return row is not None and row["error"] is None


def search_cost(row: Row) -> int:
    """Tokens of a search, candidates and judgements."""
    return (row["num_sampled_tokens"] or 0) + (row["num_judge_tokens"] or 0)


def affordable(samples: list[list[Row]], budget: float) -> tuple[int, float]:
    """The most samples a problem that cost no more than ``budget`` tokens in the mean, one at least, and
    what they cost."""
    if not samples:
        return 0, 0.0
    k, spent = 0, 0.0
    for number in range(min(len(row) for row in samples)):
        cost = spent + mean([row[number]["num_tokens"] for row in samples])
        if k and cost > budget:
            break
        k, spent = k + 1, cost
    return k, spent


def characters(values: list[bool]) -> str:
    """``1`` for true, ``0`` for false."""
    return "".join("01"[value] for value in values)
