"""A step's verdicts so far: how high and how low each score can still come out, what that decides
already, and which comparisons to ask next (`judge.comparisons`).

A step is decided once its best and its worst candidate, and whether that is a preference at all, are the
same whatever the open verdicts say. A verdict is within [0, 1], so a score is lowest when all its open
verdicts are lost, and highest when all are won. For two candidates A and B, A - B is highest when A wins
and B loses all that is open: no verdict stands against that, since a verdict between them that A wins is
one that B loses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psr_ray.method.steps import Candidate
from psr_ray.method.verdicts import EQUAL, Comparison, Verdict, both_orders, first_wins, pick

# Comparisons of a round of `needed`, at least: fewer save a little more, and take more rounds.
ROUND = 4
# Candidates of which all pairs are compared at once: two need both orders in any case, and of three the
# rounds take more time than the few comparisons that they save.
ALL_AT_ONCE = 3
# Rounding of sums of verdicts, well below EQUAL.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Rules:
    """What decides a step."""

    tie_break: str
    """`search.tie_break`."""
    min_lead: float
    """Standard errors by which the best must lead the worst; 0: any lead counts (the paper's rule)."""


class Standings:
    """Scores of a step's candidates as intervals; verdicts are set, and taken back, one by one."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        verdicts: Mapping[Comparison, Verdict],
        rules: Rules,
    ) -> None:
        self.candidates, self.rules = candidates, rules
        self.counts = [candidate.count for candidate in candidates]
        others = sum(self.counts)
        # a merged candidate stands for equal ones, which draw against each other
        self.low = [0.5 * (count - 1) for count in self.counts]
        self.high = [low + others - count for low, count in zip(self.low, self.counts, strict=True)]
        self.known: dict[Comparison, float] = {}
        for comparison, verdict in verdicts.items():
            self.set(comparison, first_wins(verdict))

    def set(self, comparison: Comparison, value: float) -> None:
        """Take a verdict in."""
        self.known[comparison] = value
        self._move(comparison, value, 1)

    def take_back(self, comparison: Comparison) -> None:
        """Open a verdict again."""
        self._move(comparison, self.known.pop(comparison), -1)

    def _move(self, comparison: Comparison, value: float, sign: int) -> None:
        i, j = comparison.first, comparison.second
        for_first, for_second = sign * self.counts[j] / 2, sign * self.counts[i] / 2
        self.low[i] += for_first * value
        self.high[i] -= for_first * (1 - value)
        self.low[j] += for_second * (1 - value)
        self.high[j] -= for_second * value

    def open(self) -> list[Comparison]:
        """The comparisons that have no verdict."""
        return [c for c in both_orders(len(self.candidates)) if c not in self.known]

    def scores(self) -> list[float]:
        """The middles of the scores' intervals: an open verdict counts as one half."""
        return [(low + high) / 2 for low, high in zip(self.low, self.high, strict=True)]

    def leaders(self) -> tuple[int, int]:
        """The best and the worst candidate as things stand."""
        return pick(self.scores(), self.candidates, self.rules.tie_break)

    def is_decided(self) -> bool:
        """Whether no open verdict can change the best, the worst, or that there is a preference."""
        if len(self.known) == len(self.counts) * (len(self.counts) - 1):
            return True
        if max(self.low) <= min(self.high) + 2 * EQUAL:  # all scores may yet be equal
            return False
        best, worst = self.leaders()
        return (
            all(self._stays_above(best, j, best) for j in range(len(self.counts)) if j != best)
            and all(
                self._stays_above(j, worst, worst) for j in range(len(self.counts)) if j != worst
            )
            and self.lead(best, worst) is not None
        )

    def _stays_above(self, upper: int, lower: int, leader: int) -> bool:
        """Whether one score stays above another one, or the ``leader`` of the two wins their tie."""
        apart = self.low[upper] - self.high[lower]
        other = lower if leader == upper else upper
        weight = self.counts if self.rules.tie_break == "most_sampled" else [0] * len(self.counts)
        wins_tie = (weight[leader], -leader) > (weight[other], -other)
        return apart > 2 * EQUAL or (wins_tie and apart >= -ROUNDING)

    def has_lead(self, best: int, worst: int) -> bool:
        """Whether the best leads the worst by enough to be a preference; where that is open, as if the
        open verdicts were one half."""
        found = self.lead(best, worst)
        if found is None:
            open_ones = self.open()
            for comparison in open_ones:
                self.set(comparison, 0.5)
            found = self.lead(best, worst)
            for comparison in open_ones:
                self.take_back(comparison)
        return best != worst and found is True

    def lead(self, best: int, worst: int) -> bool | None:
        """Whether the best leads the worst by enough to be a preference; None where that is open.

        The lead must be above ``min_lead`` of its standard errors. The two orders of a pair are two
        measurements of one quantity; half their difference is the standard error of their mean (as for
        any duplicate measurement), and those of the pairs that the lead is made of add up in squares.
        For two candidates and ``min_lead`` 1 it says that both orders name the same one.
        """
        lead_low = lead_high = error_low = error_high = 0.0
        for one, weight_of in ((best, 1), (worst, -1)):
            for other in range(len(self.counts)):
                if other == one or (one, other) == (worst, best):
                    continue  # the pair of both counts once, with both weights
                weight = self.counts[other]
                if (one, other) == (best, worst):
                    weight += self.counts[best]
                margins = self._margins(one, other)
                spread = [value for value in margins if value is not None]
                low = sum(-0.5 if value is None else value for value in margins) / 2
                high = sum(0.5 if value is None else value for value in margins) / 2
                lead_low += weight * (low if weight_of > 0 else -high)
                lead_high += weight * (high if weight_of > 0 else -low)
                if len(spread) == 2:
                    least = most = abs(spread[0] - spread[1]) / 2
                else:
                    least, most = 0.0, (0.5 + abs(spread[0]) if spread else 1.0) / 2
                error_low += (weight * least) ** 2
                error_high += (weight * most) ** 2
        if lead_low > self.rules.min_lead * math.sqrt(error_high) + EQUAL:
            return True
        if lead_high <= self.rules.min_lead * math.sqrt(error_low) + EQUAL:
            return False
        return None

    def _margins(self, one: int, other: int) -> tuple[float | None, float | None]:
        """How far ``one`` wins against ``other`` in each order, -0.5 to 0.5; None where not asked."""
        as_first = self.known.get(Comparison(one, other))
        as_second = self.known.get(Comparison(other, one))
        return (
            None if as_first is None else as_first - 0.5,
            None if as_second is None else 0.5 - as_second,
        )


def all_open(standings: Standings) -> list[Comparison]:
    """`all`: the full round robin at once, the paper's way."""
    return standings.open()


def needed(standings: Standings) -> list[Comparison]:
    """`needed`: some of the comparisons that would decide the step if verdicts came out as expected.

    An open verdict is expected as its other order came out, else for the candidate that stands higher
    (or was sampled more often). Expected verdicts are taken back one by one, as long as the step stays
    decided, those between candidates of the middle first. What is left is asked a third at a time: the
    likely best against the likely worst, then what else they are part of.
    """
    if standings.is_decided():
        return []
    open_ones = standings.open()
    if len(standings.counts) <= ALL_AT_ONCE:
        return open_ones
    scores = standings.scores()
    ranks = {
        index: rank
        for rank, index in enumerate(
            sorted(range(len(scores)), key=lambda i: (-scores[i], -standings.counts[i], i))
        )
    }
    for comparison in open_ones:
        other = standings.known.get(comparison.swap())
        higher = ranks[comparison.first] < ranks[comparison.second]
        standings.set(comparison, float(higher) if other is None else float(other < 0.5))
    ends = standings.leaders()

    def use(comparison: Comparison) -> tuple[int, int]:
        pair = (comparison.first, comparison.second)
        return sum(index in ends for index in pair), abs(ranks[pair[0]] - ranks[pair[1]])

    wanted = []
    for comparison in sorted(open_ones, key=use):
        value = standings.known[comparison]
        standings.take_back(comparison)
        if not (standings.is_decided() and standings.leaders() == ends):
            standings.set(comparison, value)
            wanted.append(comparison)
    for comparison in wanted:
        standings.take_back(comparison)
    wanted = sorted(wanted or open_ones, key=use, reverse=True)
    return wanted[: max(ROUND, math.ceil(len(wanted) / 3))]


def brackets(standings: Standings) -> tuple[list[Comparison], tuple[int, int] | None]:
    """`knockout`: the open matches of a round, in both orders; without any, the best and the worst.

    After the first round winners play on for the best place and losers for the worst; who is left over
    waits, in both brackets. Of a drawn match the candidate that comes first (most sampled first) plays
    on, in either bracket, as `search.tie_break` has it for equal scores; in the first round it wins."""
    asked = list[Comparison]()

    def play(players: list[int], sign: int) -> tuple[list[int], list[int]] | None:
        """Who goes on (those who win, or with ``sign`` -1 lose), and the others; None while a verdict is
        missing."""
        on, others = list[int](), list[int]()
        for i, j in zip(players[::2], players[1::2], strict=False):
            match = Comparison(i, j)
            missing = [c for c in (match, match.swap()) if c not in standings.known]
            asked.extend(missing)
            if not missing:
                lead = standings.known[match] - standings.known[match.swap()]
                first = sign * lead >= -EQUAL
                on.append(i if first else j)
                others.append(j if first else i)
        waiting = players[len(players) // 2 * 2 :]
        return (on + waiting, others + waiting) if not asked else None

    def last(players: list[int], sign: int) -> int:
        """The last of a bracket, where its matches are known."""
        while len(players) > 1 and (found := play(players, sign)) is not None:
            players = found[0]
        return players[0]

    first = play(list(range(len(standings.counts))), 1)
    if first is None:
        return asked, None
    best = last(first[0], 1)
    open_for_best, asked = asked, []
    worst = last(sorted(first[1]), -1)
    asked = [*dict.fromkeys([*open_for_best, *asked])]
    return asked, (best, worst) if not asked and best != worst else None


def knockout(standings: Standings) -> list[Comparison]:
    """`knockout`: the matches to play next."""
    return brackets(standings)[0]


SCHEDULES = {"all": all_open, "needed": needed, "knockout": knockout}


def leaders(schedule: str, standings: Standings) -> tuple[int, int]:
    """The best and the worst candidate, as a schedule that has ended, or has been ended, has it."""
    found = brackets(standings)[1] if schedule == "knockout" else None
    return found or standings.leaders()
