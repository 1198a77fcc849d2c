"""Comparisons in both orders, their verdicts, and the scores of candidates that follow from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from psr_ray.method.steps import Candidate

# Scores that differ by less are equal: sums of the same wins in another order differ in the last bits.
EQUAL = 1e-9


@dataclass(frozen=True)
class Comparison:
    """Candidate ``first`` shown as A against candidate ``second`` shown as B (indices)."""

    first: int
    second: int

    def swap(self) -> Comparison:
        return Comparison(self.second, self.first)


@dataclass(frozen=True)
class Verdict:
    """How much A is preferred: a probability, or 1 or 0 (`judge.verdicts: hard`); None: no verdict."""

    first_wins: float | None
    text: str = ""
    num_thinking_tokens: int = 0
    mass: float | None = None
    """Probability of both letters together where the verdict stands; None where only text was read."""


def both_orders(num_candidates: int) -> Iterator[Comparison]:
    """Every pair of candidates in both orders, the two orders side by side."""
    for i, j in combinations(range(num_candidates), 2):
        yield Comparison(i, j)
        yield Comparison(j, i)


Verdicts = Mapping[Comparison, Verdict]


def win(verdicts: Verdicts, i: int, j: int) -> float:
    """How far candidate i beats j in [0, 1]: the mean over both orders, one half for one that has no
    verdict (and against itself)."""
    if i == j:
        return 0.5
    as_first, as_second = (
        first_wins(verdicts.get(comparison)) for comparison in (Comparison(i, j), Comparison(j, i))
    )
    return (as_first + 1 - as_second) / 2


def first_wins(verdict: Verdict | None) -> float:
    """How much A is preferred; one half where there is no verdict."""
    return 0.5 if verdict is None or verdict.first_wins is None else verdict.first_wins


def scores(counts: Sequence[int], verdicts: Verdicts) -> list[float]:
    """Score of each distinct candidate by how often it was sampled: the wins it would have were no
    candidates merged; a comparison without verdict counts as half a win for each side.

    arXiv 2503.03746, section 3: Score_i = sum over j != i of O(s_i, s_j). A merged candidate
    stands for ``count`` equal ones, which draw against each other (one half each).
    """
    return [
        0.5 * (count - 1)
        + sum(other * win(verdicts, i, j) for j, other in enumerate(counts) if j != i)
        for i, count in enumerate(counts)
    ]


def order(a: float, b: float) -> int:
    """1 where score ``a`` is the higher one, -1 where ``b`` is, 0 where they are equal."""
    return 0 if abs(a - b) <= EQUAL else 1 if a > b else -1


def is_tie(step_scores: Sequence[float]) -> bool:
    """All scores are equal: the paper's tie (section 3)."""
    return order(max(step_scores), min(step_scores)) == 0


def pick(
    step_scores: Sequence[float], candidates: Sequence[Candidate], tie_break: str
) -> tuple[int, int]:
    """Indices of the best and the worst candidate; ``tie_break`` (`search.tie_break`) settles which of
    equal ones."""

    def weight(index: int) -> tuple[int, int]:
        return (candidates[index].count if tie_break == "most_sampled" else 0, -index)

    best, worst = (
        [index for index, score in enumerate(step_scores) if order(score, end) == 0]
        for end in (max(step_scores), min(step_scores))
    )
    return max(best, key=weight), max(worst, key=weight)
