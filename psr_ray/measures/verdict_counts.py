"""Counts over judged steps: verdicts that cannot be read, order flips, ties, right verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from psr_ray.method.verdicts import Verdict, Verdicts, is_tie, scores


def named(verdict: Verdict) -> bool | None:
    """Whether a verdict names A; None where it names neither."""
    value = verdict.first_wins
    return None if value is None or value == 0.5 else value > 0.5


def letters(verdicts: Verdicts) -> Verdicts:
    """The verdicts as the letters that they name, 1 or 0."""
    return {
        comparison: replace(verdict, first_wins=None if (a := named(verdict)) is None else float(a))
        for comparison, verdict in verdicts.items()
    }


@dataclass
class VerdictCounts:
    """``num_pairs``: both orders name a letter. A *flip*: the same one; ``disagreement`` is its degree,
    how far the two orders' probabilities of a candidate are apart. A *tie*: a step that gave no
    preference; a *letter tie* is the paper's rule, all scores equal when only letters count.
    ``num_right`` of ``num_gradable`` where the truth is known: comparisons of two steps of which exactly
    one is right."""

    num_verdicts: int = 0
    num_possible: int = 0
    num_unparsable: int = 0
    num_pairs: int = 0
    num_read_pairs: int = 0
    num_flips: int = 0
    disagreement: float = 0.0
    num_first: int = 0
    num_steps: int = 0
    num_ties: int = 0
    num_whole_steps: int = 0
    num_letter_ties: int = 0
    num_gradable: int = 0
    num_right: int = 0
    num_masses: int = 0
    mass: float = 0.0

    def add(
        self,
        counts: Sequence[int],
        verdicts: Verdicts,
        *,
        tie: bool,
        spent: bool = False,
        is_right: Sequence[bool] | None,
    ) -> None:
        """Count one judged step: how often each candidate was sampled, its verdicts, whether it is tied,
        the truth."""
        self.num_steps += not spent
        self.num_ties += tie
        possible = len(counts) * (len(counts) - 1)
        if verdicts or spent:
            self.num_possible += possible
        if verdicts and len(verdicts) == possible:
            self.num_whole_steps += 1
            self.num_letter_ties += is_tie(scores(counts, letters(verdicts)))
        for comparison, verdict in verdicts.items():
            names_first = named(verdict)
            self.num_verdicts += 1
            self.num_unparsable += verdict.first_wins is None
            self.num_first += names_first is True
            if verdict.mass is not None:
                self.num_masses += 1
                self.mass += verdict.mass
            if is_right is not None and is_right[comparison.first] != is_right[comparison.second]:
                self.num_gradable += 1
                self.num_right += names_first is is_right[comparison.first]
            other = verdicts.get(comparison.swap())
            if comparison.first < comparison.second and other is not None:
                if names_first is not None and named(other) is not None:
                    self.num_pairs += 1
                    self.num_flips += names_first is named(other)
                if verdict.first_wins is not None and other.first_wins is not None:
                    self.num_read_pairs += 1
                    self.disagreement += abs(verdict.first_wins + other.first_wins - 1)

    def shares(self) -> dict[str, float | None]:
        """The figures of a report; None where there was nothing to measure. With less than the full
        round robin (``asked_share`` below 1) flips and first letters are those of the pairs asked."""

        def share(part: float, whole: float) -> float | None:
            return part / whole if whole else None

        return {
            "judge_accuracy_on_policy": share(self.num_right, self.num_gradable),
            "order_flip_share": share(self.num_flips, self.num_pairs),
            "order_disagreement": share(self.disagreement, self.num_read_pairs),
            "first_share": share(self.num_first, self.num_verdicts - self.num_unparsable),
            "tie_share": share(self.num_ties, self.num_steps),
            "letter_tie_share": share(self.num_letter_ties, self.num_whole_steps),
            "unparsable_share": share(self.num_unparsable, self.num_verdicts),
            "asked_share": share(self.num_verdicts, self.num_possible),
            "verdict_mass": share(self.mass, self.num_masses),
        }
