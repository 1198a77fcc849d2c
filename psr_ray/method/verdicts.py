"""Comparisons in both orders, their verdicts, and the scores of candidates that follow from them.

``VerdictCounts`` counts three things separately: a verdict that cannot be parsed, an order flip (both
orders name the same position), and a tie (all scores of a step are equal).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from psr_ray.method.steps import Candidate


@dataclass(frozen=True)
class Comparison:
    """Candidate ``first`` shown as A against candidate ``second`` shown as B (indices)."""

    first: int
    second: int

    def swap(self) -> Comparison:
        return Comparison(self.second, self.first)


@dataclass(frozen=True)
class Verdict:
    """How much A is preferred: 1 or 0 (``explain``), a probability (``verdict``), None: unparsable."""

    first_wins: float | None
    text: str = ""
    num_thinking_tokens: int = 0


def both_orders(num_candidates: int) -> Iterator[Comparison]:
    """Every pair of candidates in both orders, the two orders side by side."""
    for i, j in combinations(range(num_candidates), 2):
        yield Comparison(i, j)
        yield Comparison(j, i)


Verdicts = Mapping[Comparison, Verdict]


def win(verdicts: Verdicts, i: int, j: int) -> float:
    """How far candidate i beats j in [0, 1]: the mean over both orders, one half for a missing one
    (and against itself)."""
    if i == j:
        return 0.5
    as_first = verdicts[Comparison(i, j)].first_wins
    as_second = verdicts[Comparison(j, i)].first_wins
    return (
        (0.5 if as_first is None else as_first) + (0.5 if as_second is None else 1 - as_second)
    ) / 2


def scores(candidates: Sequence[Candidate], verdicts: Verdicts) -> list[float]:
    """Score of each distinct candidate: the wins it would have were no candidates merged.

    arXiv 2503.03746, section 3: Score_i = sum over j != i of O(s_i, s_j). A merged candidate
    stands for ``count`` equal ones, which draw against each other (one half each).
    """
    return [
        0.5 * (candidate.count - 1)
        + sum(other.count * win(verdicts, i, j) for j, other in enumerate(candidates) if j != i)
        for i, candidate in enumerate(candidates)
    ]


def order(a: float, b: float) -> int:
    """1 where score ``a`` is the higher one, -1 where ``b`` is, 0 where they are equal: sums of the
    same wins in another order differ in the last bits."""
    return 0 if abs(a - b) < 1e-9 else 1 if a > b else -1


def is_tie(step_scores: Sequence[float]) -> bool:
    """All scores are equal: the search goes back a step (section 3)."""
    return order(max(step_scores), min(step_scores)) == 0


@dataclass
class VerdictCounts:
    """Counts over judged steps. ``num_right``/``num_gradable`` only where the truth is known:
    ordered comparisons of two steps of which exactly one is right."""

    num_verdicts: int = 0
    num_unparsable: int = 0
    num_pairs: int = 0
    num_flips: int = 0
    num_first: int = 0
    num_steps: int = 0
    num_ties: int = 0
    num_gradable: int = 0
    num_right: int = 0

    def add(
        self,
        verdicts: Verdicts,
        *,
        tie: bool,
        is_right: Sequence[bool] | None,
    ) -> None:
        """Count one judged step: its verdicts, whether it is a tie, and the candidates' truth."""
        self.num_steps += 1
        self.num_ties += tie
        for comparison, verdict in verdicts.items():
            self.num_verdicts += 1
            self.num_unparsable += verdict.first_wins is None
            self.num_first += verdict.first_wins is not None and verdict.first_wins > 0.5
            if is_right is not None and is_right[comparison.first] != is_right[comparison.second]:
                self.num_gradable += 1
                truth = float(is_right[comparison.first])
                self.num_right += (
                    verdict.first_wins is not None and abs(verdict.first_wins - truth) < 0.5
                )
            if comparison.first < comparison.second:
                self.num_pairs += 1
                other = verdicts[comparison.swap()].first_wins
                this = verdict.first_wins
                self.num_flips += (
                    this is not None and other is not None and (this > 0.5) == (other > 0.5)
                )

    def shares(self) -> dict[str, float | None]:
        """The figures of a report; None where there was nothing to measure."""

        def share(part: int, whole: int) -> float | None:
            return part / whole if whole else None

        return {
            "judge_accuracy_on_policy": share(self.num_right, self.num_gradable),
            "order_flip_share": share(self.num_flips, self.num_pairs),
            "first_share": share(self.num_first, self.num_verdicts - self.num_unparsable),
            "tie_share": share(self.num_ties, self.num_steps),
            "unparsable_share": share(self.num_unparsable, self.num_verdicts),
        }
