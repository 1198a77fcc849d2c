"""Who says which candidate is best: one class a kind of ranking, all with the same call.

``rank(state, candidates)`` is a coroutine like the search's: it may yield requests. It returns one
score a candidate; the search takes the best and the worst, whoever gave the scores. Raises
``JudgementTooLong`` where a judge's prompt leaves no room for its judgement.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from psr_ray.config import Config, JudgeConfig
from psr_ray.errors import PsrError
from psr_ray.method.generation import (
    Completion,
    EngineTask,
    GenerationRequest,
    ModelRole,
    Usage,
)
from psr_ray.method.judge import (
    Comparison,
    Verdict,
    both_orders,
    parse_points,
    parse_verdict,
    points_scores,
    scores,
)
from psr_ray.method.prompts import PromptBuilder
from psr_ray.method.steps import Candidate
from psr_ray.method.truth import right_candidates
from psr_ray.problems import Problem

Unit = Literal["step", "solution"]


@dataclass(frozen=True)
class State:
    """Where a search stands when candidates are ranked."""

    problem: Problem
    prefix_ids: tuple[int, ...]
    steps_so_far: list[str]
    number: int
    """Position of the attempt in the search, counted over rollbacks."""
    usage: Usage


@dataclass(frozen=True)
class Ranked:
    """Scores of the candidates, and what they come from: verdicts of pairs, or a text each."""

    scores: list[float]
    verdicts: dict[Comparison, Verdict] = field(default_factory=dict)
    judgements: list[str] = field(default_factory=list)


class JudgementTooLong(Exception):
    """Candidates that leave no room for a judgement of them."""


class Ranking(Protocol):
    def rank(self, state: State, candidates: Sequence[Candidate]) -> EngineTask[Ranked]: ...


def check_room(requests: Sequence[GenerationRequest], max_length: int) -> None:
    """Raises ``JudgementTooLong`` where a prompt and its judgement do not fit in ``max_length``."""
    longest = max(requests, key=lambda request: len(request.prompt_ids) + request.max_tokens)
    if len(longest.prompt_ids) + longest.max_tokens > max_length:
        raise JudgementTooLong(
            f"a judge's prompt of {len(longest.prompt_ids)} tokens + {longest.max_tokens} for the "
            f"judgement > max_length {max_length}"
        )


def judge_requests(
    comparisons: Sequence[Comparison],
    problem: str,
    steps_so_far: Sequence[str],
    texts: Sequence[str],
    prompts: PromptBuilder,
    settings: JudgeConfig,
    role: ModelRole = "policy",
) -> list[GenerationRequest]:
    """A request for each comparison, in order."""
    build = prompts.judge_ids if settings.mode == "explain" else prompts.verdict_ids
    choices = () if settings.mode == "explain" else prompts.verdict_choices()
    return [
        GenerationRequest(
            prompt_ids=build(problem, steps_so_far, texts[c.first], texts[c.second]),
            num_samples=1,
            temperature=settings.temperature,
            top_p=1.0,
            max_tokens=settings.max_tokens if settings.mode == "explain" else 1,
            choice_ids=choices,
            role=role,
            purpose="judge",
            max_seconds=settings.max_seconds,
        )
        for c in comparisons
    ]


def read_verdict(completion: Completion, prompts: PromptBuilder) -> Verdict:
    """The verdict of one completion, in either mode."""
    if completion.choice_probabilities:
        return Verdict(completion.choice_probabilities[0])
    return parse_verdict(prompts.decode(completion.token_ids))


@dataclass
class PairwiseRanking:
    """The paper's way: the model compares all pairs in both orders, a score is the sum of wins.

    What was decided before a rollback is not asked again.
    """

    prompts: PromptBuilder
    judge: JudgeConfig
    max_length: int
    role: ModelRole = "policy"
    decided: dict[tuple[tuple[int, ...], str, str], Verdict] = field(default_factory=dict)

    def rank(self, state: State, candidates: Sequence[Candidate]) -> EngineTask[Ranked]:
        texts = [candidate.text for candidate in candidates]
        everything = list(both_orders(len(texts)))
        keys = {c: (state.prefix_ids, texts[c.first], texts[c.second]) for c in everything}
        asked = [c for c in everything if keys[c] not in self.decided]
        if asked:
            requests = judge_requests(
                asked,
                state.problem.text,
                state.steps_so_far,
                texts,
                self.prompts,
                self.judge,
                self.role,
            )
            check_room(requests, self.max_length)
            answers = yield requests
            for comparison, request, [completion] in zip(asked, requests, answers, strict=True):
                state.usage.add_judgement(request, [completion])
                self.decided[keys[comparison]] = read_verdict(completion, self.prompts)
        verdicts = {c: self.decided[keys[c]] for c in everything}
        return Ranked(scores(candidates, verdicts), verdicts)


@dataclass
class PointsRanking:
    """Self-Rewarding LM (arXiv 2401.10020): each candidate gets 0 to 5 additive points by itself."""

    prompts: PromptBuilder
    judge: JudgeConfig
    max_length: int
    role: ModelRole = "policy"

    def rank(self, state: State, candidates: Sequence[Candidate]) -> EngineTask[Ranked]:
        requests = [
            GenerationRequest(
                prompt_ids=self.prompts.points_ids(
                    state.problem.text, [*state.steps_so_far, candidate.text]
                ),
                num_samples=1,
                temperature=self.judge.temperature,
                top_p=1.0,
                max_tokens=self.judge.max_points_tokens,
                role=self.role,
                purpose="judge",
                max_seconds=self.judge.max_seconds,
            )
            for candidate in candidates
        ]
        check_room(requests, self.max_length)
        answers = yield requests
        texts = []
        for request, [completion] in zip(requests, answers, strict=True):
            state.usage.add_judgement(request, [completion])
            texts.append(self.prompts.decode(completion.token_ids))
        return Ranked(points_scores([parse_points(text) for text in texts]), judgements=texts)


@dataclass(frozen=True)
class RandomRanking:
    """Control: chance. The same for the same seed, problem and attempt."""

    seed: int

    def rank(self, state: State, candidates: Sequence[Candidate]) -> EngineTask[Ranked]:
        yield from ()
        return Ranked([draw.random() for draw in self.draws(state, candidates)])

    def draws(self, state: State, candidates: Sequence[Candidate]) -> list[random.Random]:
        """A generator for each candidate."""
        where = f"ranking/{self.seed}/{state.problem.id}/{state.number}"
        return [random.Random(f"{where}/{index}") for index in range(len(candidates))]


@dataclass(frozen=True)
class LongestRanking(RandomRanking):
    """Control: more tokens win; equal lengths are settled by chance."""

    def rank(self, state: State, candidates: Sequence[Candidate]) -> EngineTask[Ranked]:
        yield from ()
        draws = self.draws(state, candidates)
        return Ranked(
            [
                len(candidate.token_ids) + 0.5 * draw.random()
                for candidate, draw in zip(candidates, draws, strict=True)
            ]
        )


@dataclass(frozen=True)
class OracleRanking:
    """Control and ceiling: the truth, 1 or 0."""

    unit: Unit

    def rank(self, state: State, candidates: Sequence[Candidate]) -> EngineTask[Ranked]:
        yield from ()
        texts = [candidate.text for candidate in candidates]
        truth = right_candidates(state.problem, state.steps_so_far, texts, self.unit)
        if truth is None:
            raise PsrError(
                f"problem {state.problem.id}: method.ranking oracle needs gradable problems "
                "(the embedded ones, or known answers with method.unit: solution)"
            )
        return Ranked([float(right) for right in truth])


def ranking_of(config: Config, prompts: PromptBuilder) -> Ranking:
    """A ranking for one search, as the config's method says."""
    method, max_length = config.method, config.model.max_length
    if method.ranking == "pairwise":
        return PairwiseRanking(prompts, config.judge, max_length, method.judge)
    if method.ranking == "points":
        return PointsRanking(prompts, config.judge, max_length, method.judge)
    if method.ranking == "random":
        return RandomRanking(config.seed)
    if method.ranking == "longest":
        return LongestRanking(config.seed)
    return OracleRanking(method.unit)
