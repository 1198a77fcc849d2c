"""Figures of a set of searches: what they cost, how they ended, how the judge did on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from psr_ray.inference.search_rows import verdicts_of
from psr_ray.measures.verdict_counts import VerdictCounts
from psr_ray.method.judge import parse_points
from psr_ray.method.verdicts import Verdicts, order, win
from psr_ray.storage.files import Row

# Differences in tokens between two candidates, for the win rate of the longer one.
LENGTH_BINS = (("1-4", 1, 4), ("5-19", 5, 19), ("20+", 20, 10**9))


@dataclass
class SearchFigures:
    """The figures of a set of searches for the report."""

    num_searches: int = 0
    num_errors: int = 0
    num_correct: int = 0
    num_rollbacks: int = 0
    num_steps: int = 0
    num_candidates: int = 0
    num_distinct: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_sampled_tokens: int = 0
    num_judge_tokens: int = 0
    num_work_tokens: int = 0
    num_critique_tokens: int = 0
    num_compare_tokens: int = 0
    num_thinking_tokens: int = 0
    num_cut_texts: int = 0
    num_refresh_tokens: int = 0
    num_spent_steps: int = 0
    num_pairs: int = 0
    num_right_pairs: int = 0
    num_gradable_pairs: int = 0
    num_unparsable_points: int = 0
    num_points: int = 0
    num_one_right: int = 0
    num_ranked_right: float = 0.0
    ends: dict[str, int] = field(default_factory=dict)
    verdicts: VerdictCounts = field(default_factory=VerdictCounts)
    longer_wins: dict[str, list[float]] = field(default_factory=dict)
    longer_true: list[float] = field(default_factory=lambda: [0, 0.0])

    def add(self, search: Row) -> None:
        self.num_searches += 1
        if search["error"] is not None:
            self.num_errors += 1
            return
        self.num_correct += bool(search["correct"])
        self.num_rollbacks += search["num_rollbacks"]
        self.num_prompt_tokens += search["num_prompt_tokens"]
        self.num_cached_tokens += search["num_cached_tokens"]
        self.num_sampled_tokens += search["num_sampled_tokens"]
        self.num_judge_tokens += search["num_judge_tokens"]
        self.num_work_tokens += search["num_work_tokens"]
        self.num_critique_tokens += search["num_critique_tokens"]
        self.num_compare_tokens += search["num_compare_tokens"]
        self.num_thinking_tokens += search["num_thinking_tokens"]
        self.num_cut_texts += search["num_cut_texts"]
        self.num_refresh_tokens += search.get("num_refresh_tokens") or 0
        self.ends[search["end"]] = self.ends.get(search["end"], 0) + 1
        for step in search["steps"]:
            candidates = step["candidates"]
            self.num_steps += 1
            self.num_distinct += len(candidates)
            self.num_candidates += sum(c["count"] for c in candidates)
            if len(candidates) < 2:
                continue
            truth = [c["is_right"] for c in candidates]
            verdicts = verdicts_of(step)
            self._add_pair(step)
            self.num_spent_steps += bool(step.get("spent"))
            self.verdicts.add(
                [c["count"] for c in candidates],
                verdicts,
                tie=step["tied"],
                spent=bool(step.get("spent")),
                is_right=None if None in truth else truth,
            )
            self._add_ranking(candidates)
            if verdicts:
                self._add_lengths(candidates, verdicts)

    def _add_pair(self, step: Row) -> None:
        """The step's preference, where it is kept: is the chosen step right, the rejected one wrong?"""
        if not step["kept"] or step["rejected"] is None:
            return
        self.num_pairs += 1
        chosen, rejected = (
            step["candidates"][step[name]]["is_right"] for name in ("chosen", "rejected")
        )
        if chosen is not None and rejected is not None:
            self.num_gradable_pairs += 1
            self.num_right_pairs += chosen and not rejected

    def _add_ranking(self, candidates: list[Row]) -> None:
        """Does the better score stand with the right one of two candidates?"""
        for one, other in combinations(candidates, 2):
            if one["is_right"] is None or one["is_right"] == other["is_right"]:
                continue
            right, wrong = (one, other) if one["is_right"] else (other, one)
            self.num_one_right += 1
            self.num_ranked_right += (1 + order(right["score"], wrong["score"])) / 2
        judged = [c["judgement"] for c in candidates if c["judgement"] is not None]
        self.num_points += len(judged)
        self.num_unparsable_points += sum(parse_points(text) is None for text in judged)

    def _add_lengths(self, candidates: list[Row], verdicts: Verdicts) -> None:
        """How often the longer of two candidates wins, by the difference in tokens."""
        for i, j in combinations(range(len(candidates)), 2):
            lengths = [len(candidates[k]["token_ids"]) for k in (i, j)]
            if lengths[0] == lengths[1]:
                continue
            longer, shorter = (i, j) if lengths[0] > lengths[1] else (j, i)
            truth = [candidates[k]["is_right"] for k in (longer, shorter)]
            if None not in truth:
                self.longer_true[0] += 1
                self.longer_true[1] += (1 + truth[0] - truth[1]) / 2
            for name, least, most in LENGTH_BINS:
                if least <= abs(lengths[0] - lengths[1]) <= most:
                    counts = self.longer_wins.setdefault(name, [0, 0.0])
                    counts[0] += 1
                    counts[1] += win(verdicts, longer, shorter)

    @property
    def num_tokens(self) -> int:
        """All tokens that the searches generated."""
        return self.num_sampled_tokens + self.num_judge_tokens

    def summary(self) -> dict[str, Any]:
        """Figures by name; a share is None where there was nothing to measure."""

        def per(part: float, whole: float) -> float | None:
            return part / whole if whole else None

        good = self.num_searches - self.num_errors
        return {
            "num_searches": self.num_searches,
            "num_errors": self.num_errors,
            "search_accuracy": per(self.num_correct, good),
            "rollbacks_per_search": per(self.num_rollbacks, good),
            "distinct_candidates_per_step": per(self.num_distinct, self.num_steps),
            "prefix_cache_hit_rate": per(self.num_cached_tokens, self.num_prompt_tokens),
            "num_sampled_tokens": self.num_sampled_tokens,
            "num_judge_tokens": self.num_judge_tokens,
            "num_work_tokens": self.num_work_tokens,
            "num_critique_tokens": self.num_critique_tokens,
            "num_compare_tokens": self.num_compare_tokens,
            "num_thinking_tokens": self.num_thinking_tokens,
            "num_cut_texts": self.num_cut_texts,
            "num_refresh_tokens": self.num_refresh_tokens,
            "num_spent_steps": self.num_spent_steps,
            "num_pairs_found": self.num_pairs,
            "num_right_pairs": self.num_right_pairs if self.num_gradable_pairs else None,
            "tokens_per_pair": per(self.num_tokens, self.num_pairs),
            "tokens_per_right_pair": per(self.num_tokens, self.num_right_pairs),
            "num_verdicts": self.verdicts.num_verdicts,
            "num_compared_pairs": self.verdicts.num_pairs,
            "num_judged_steps": self.verdicts.num_steps,
            "num_gradable_verdicts": self.verdicts.num_gradable,
            "num_one_right": self.num_one_right,
            "ranking_accuracy": per(self.num_ranked_right, self.num_one_right),
            "longer_win_share": per(
                sum(wins for _, wins in self.longer_wins.values()),
                sum(num for num, _ in self.longer_wins.values()),
            ),
            "longer_true_share": per(self.longer_true[1], self.longer_true[0]),
            "longer_wins": {
                name: {"pairs": num, "share": wins / num}
                for name, (num, wins) in sorted(self.longer_wins.items())
            },
            "ends": dict(sorted(self.ends.items())),
            **self._shares(),
        }

    def _shares(self) -> dict[str, float | None]:
        """Shares of the verdicts; with points, the unparsable share is that of the points."""
        shares = self.verdicts.shares()
        if self.num_points:
            shares["unparsable_share"] = self.num_unparsable_points / self.num_points
        return shares


def figures_of(searches: Iterable[Row]) -> SearchFigures:
    """Add up a set of search rows."""
    figures = SearchFigures()
    for search in searches:
        figures.add(search)
    return figures
