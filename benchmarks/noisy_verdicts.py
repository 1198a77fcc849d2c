"""The paper's ranking with the verdicts of a share of the pairs turned round: what a worse judge costs.

    method: {ranking: "benchmarks.noisy_verdicts:Flips20"}        (configs/contrast.yaml)

Both orders of a pair are turned together: turned one by one they would contradict each other, and the
pair would be a tie, not an error. Which pairs is drawn from the run's seed, the problem, the attempt and
the two steps.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from psr_ray.config import Config
from psr_ray.method.generation import EngineTask
from psr_ray.method.prompts import PromptBuilder
from psr_ray.method.ranking import PairwiseRanking, State, pairwise_ranking
from psr_ray.method.verdicts import Comparison, Verdict


class Flips10(PairwiseRanking):
    """One pair in ten."""

    share: ClassVar[float] = 0.1

    def __init__(self, prompts: PromptBuilder, config: Config) -> None:
        plain = pairwise_ranking(prompts, config, config.method.judge_role)
        super().__init__(plain.judge, plain.max_length, plain.rules)
        self.seed = config.seed

    def compare(
        self, state: State, texts: Sequence[str], asked: Sequence[Comparison]
    ) -> EngineTask[dict[Comparison, Verdict]]:
        """Ask for some verdicts, and turn a share of them round."""
        found = yield from super().compare(state, texts, asked)
        return {c: self.turned(state, texts, c, verdict) for c, verdict in found.items()}

    def turned(
        self, state: State, texts: Sequence[str], comparison: Comparison, verdict: Verdict
    ) -> Verdict:
        """The verdict, or with this share's chance its opposite."""
        pair = sorted((texts[comparison.first], texts[comparison.second]))
        draw = random.Random(f"flips/{self.seed}/{state.problem.id}/{state.number}/{pair}")
        if verdict.first_wins is None or draw.random() >= self.share:
            return verdict
        return replace(verdict, first_wins=1 - verdict.first_wins)


class Flips20(Flips10):
    """One in five."""

    share = 0.2


class Flips30(Flips10):
    """Three in ten."""

    share = 0.3
