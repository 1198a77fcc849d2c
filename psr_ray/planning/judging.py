"""What judging costs: requests and tokens by `judge.mode` and `judge.comparisons`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from psr_ray.config import Config
from psr_ray.method.standings import ALL_AT_ONCE
from psr_ray.planning.lengths import Lengths

# Share of all comparisons that `judge.comparisons: needed` asks of six different candidates, where no
# search of the run has shown it yet: 0.77 to 0.94 for three simulated judges (docs/judging.md).
NEEDED_SHARE = 0.9


@dataclass(frozen=True)
class Judging:
    """The judge's part of some work: requests, tokens as expected and at most."""

    requests: float = 0.0
    tokens: float = 0.0
    most: float = 0.0

    def times(self, num: float) -> Judging:
        return Judging(num * self.requests, num * self.tokens, num * self.most)


def judging(
    config: Config, lengths: Lengths, num_comparisons: float, num_candidates: int
) -> Judging:
    """So many comparisons of the candidates of one step, by `judge.mode`."""
    judge = config.judge
    if judge.mode in ("verdict", "shared"):
        texts = num_candidates if judge.critiques else 0
        work = 1 if judge.mode == "shared" else 0
        written = work * min(lengths.work, judge.max_tokens) + work * judge.max_thinking_tokens
        written += texts * min(lengths.critique, judge.max_tokens)
        return Judging(
            work + texts + num_comparisons,
            written + num_comparisons,
            work * judge.most_tokens + texts * judge.max_tokens + num_comparisons,
        )
    each = min(lengths.judgement + judge.max_thinking_tokens, judge.most_tokens)
    return Judging(num_comparisons, num_comparisons * each, num_comparisons * judge.most_tokens)


def num_comparisons(config: Config, lengths: Lengths) -> float:
    """Comparisons of a step whose candidates all differ, by `judge.comparisons`."""
    w = config.search.num_candidates
    if config.judge.comparisons == "knockout":
        return 2 * (w // 2 + 2 * (math.ceil(w / 2) - 1))
    if config.judge.comparisons == "all" or w <= ALL_AT_ONCE:
        return w * (w - 1)
    return (lengths.asked_share or NEEDED_SHARE) * w * (w - 1)


def judge_of_step(config: Config, lengths: Lengths) -> Judging:
    """The judging of one step by the config's method."""
    w, ranking = config.search.num_candidates, config.method.ranking
    if ranking == "pairwise":
        expected = judging(config, lengths, num_comparisons(config, lengths), w)
        whole = judging(config, lengths, w * (w - 1), w)
        return (
            expected
            if config.judge.comparisons == "knockout"
            else replace(expected, most=whole.most)
        )
    if ranking == "points":
        return Judging(w, w * lengths.judgement, w * config.judge.max_points_tokens)
    return Judging()


def judge_of_search(config: Config, lengths: Lengths, num_steps: float) -> Judging:
    """The judging of a search of so many steps, within `judge.max_problem_tokens`, which is looked at
    between rounds: the last one may pass it."""
    found, most = judge_of_step(config, lengths).times(num_steps), config.judge.max_problem_tokens
    if most is None or found.tokens <= most:
        return found
    last = judging(config, lengths, num_comparisons(config, lengths), config.search.num_candidates)
    share = most / found.tokens
    return Judging(share * found.requests, most, min(found.most, most + last.most))
