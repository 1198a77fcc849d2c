"""Rankings: what scores the candidates of a step (`method.ranking`); one class each, all called alike.

``rank(state, candidates)`` is a coroutine like the search: it may yield requests, and returns one score
per candidate. Raises ``JudgementTooLong`` where a judge's prompt leaves no room for its judgement. A
class of the user's own is named in the config as ``module:name`` (docs/extending.md).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from psr_ray.config import Config, JudgeConfig
from psr_ray.errors import PsrError
from psr_ray.method.generation import EngineTask, GenerationRequest, ModelRole, Usage
from psr_ray.method.judge import Judge, Notes, check_room, parse_points, with_room
from psr_ray.method.judges import judge_of
from psr_ray.method.prompts import PromptBuilder, TokenIds
from psr_ray.method.standings import SCHEDULES, Rules, Standings, leaders
from psr_ray.method.steps import Candidate
from psr_ray.method.truth import right_candidates
from psr_ray.method.verdicts import Comparison, Verdict, both_orders, first_wins, scores
from psr_ray.plugins import find
from psr_ray.problems import Problem

Unit = Literal["step", "solution"]


@dataclass(frozen=True)
class State:
    """The state of a search when candidates are ranked."""

    problem: Problem
    prefix_ids: tuple[int, ...]
    steps_so_far: list[str]
    number: int
    """Position of the attempt in the search, counted over rollbacks."""
    usage: Usage


@dataclass(frozen=True)
class Ranked:
    """Scores of the candidates and their origin: verdicts of pairs, or a judgement each."""

    scores: list[float]
    verdicts: dict[Comparison, Verdict] = field(default_factory=dict)
    judgements: list[str] = field(default_factory=list)
    notes: Notes | None = None
    """What the judge wrote before it compared (`judge.mode: shared`)."""
    leaders: tuple[int, int] | None = None
    """Best and worst, where they are not those of the scores (`judge.comparisons: knockout`)."""
    has_lead: bool = True
    """Whether the best candidate leads the worst by more than the judge's error (`judge.min_lead`)."""
    is_spent: bool = False
    """Whether the judge's tokens for this problem are used up (`judge.max_problem_tokens`)."""


class Ranking(Protocol):
    def rank(self, state: State, candidates: Sequence[Candidate]) -> EngineTask[Ranked]: ...


@dataclass
class PairwiseRanking:
    """The paper's way: the model compares pairs in both orders, a score is the sum of wins.

    Which pairs, and how many at a time, is `judge.comparisons`. What was compared, worked out or
    criticised before a rollback is not asked again.
    """

    judge: Judge
    max_length: int
    rules: Rules
    decided: dict[tuple[tuple[int, ...], str, str], Verdict] = field(default_factory=dict)
    notes: dict[tuple[int, ...], Notes] = field(default_factory=dict)

    def rank(self, state: State, candidates: Sequence[Candidate]) -> EngineTask[Ranked]:
        texts = [candidate.text for candidate in candidates]
        keys = {
            c: (state.prefix_ids, texts[c.first], texts[c.second])
            for c in both_orders(len(candidates))
        }
        verdicts = {c: self.decided[key] for c, key in keys.items() if key in self.decided}
        standings = Standings(candidates, verdicts, self.rules)
        comparisons = self.judge.settings.comparisons
        while asked := SCHEDULES[comparisons](standings):
            if self.is_spent(state):
                break
            found = yield from self.compare(state, texts, asked)
            for comparison, verdict in found.items():
                verdicts[comparison] = self.decided[keys[comparison]] = verdict
                standings.set(comparison, first_wins(verdict))
        best, worst = leaders(comparisons, standings)
        return Ranked(
            scores(standings.counts, verdicts),
            verdicts,
            notes=self.notes.get(state.prefix_ids),
            leaders=(best, worst),
            has_lead=standings.has_lead(best, worst),
            is_spent=bool(asked),
        )

    def compare(
        self, state: State, texts: Sequence[str], asked: Sequence[Comparison]
    ) -> EngineTask[dict[Comparison, Verdict]]:
        """Ask for the verdicts of some comparisons."""
        usage, new = state.usage, Notes(state.problem.text, state.steps_so_far)
        notes = self.notes.setdefault(state.prefix_ids, new)
        yield from with_room(self.judge.prepare(notes, texts, usage), self.max_length)
        requests = self.judge.requests(notes, texts, asked)
        check_room(requests, self.max_length)
        answers = yield requests
        found = {}
        for comparison, request, [completion] in zip(asked, requests, answers, strict=True):
            found[comparison] = verdict = self.judge.read(completion)
            usage.add(request, [completion])
            usage.num_thinking_tokens += verdict.num_thinking_tokens
        return found

    def is_spent(self, state: State) -> bool:
        """Whether the judge has written as much as one problem may cost."""
        most = self.judge.settings.max_problem_tokens
        return most is not None and state.usage.num_judge_tokens >= most


def pairwise_ranking(prompts: PromptBuilder, config: Config, role: ModelRole) -> PairwiseRanking:
    """The paper's ranking, by the judge that the config asks for."""
    judge = judge_of(prompts, config.judge, role)
    rules = Rules(config.search.tie_break, config.judge.lead)
    return PairwiseRanking(judge, config.model.max_length, rules)


@dataclass
class PointsRanking:
    """Self-Rewarding LM (arXiv 2401.10020): each candidate gets 0 to 5 additive points by itself."""

    prompts: PromptBuilder
    settings: JudgeConfig
    max_length: int
    role: ModelRole

    def rank(self, state: State, candidates: Sequence[Candidate]) -> EngineTask[Ranked]:
        requests = [
            GenerationRequest(
                prompt_ids=points_prompt(
                    self.prompts,
                    state.problem.text,
                    [*state.steps_so_far, candidate.text],
                    thinking=self.settings.thinks,
                ),
                num_samples=1,
                temperature=self.settings.temperature,
                top_p=1.0,
                max_tokens=self.settings.most_points_tokens,
                role=self.role,
                purpose="compare",
                max_seconds=self.settings.max_seconds,
            )
            for candidate in candidates
        ]
        check_room(requests, self.max_length)
        answers = yield requests
        texts, points = [], []
        for request, [completion] in zip(requests, answers, strict=True):
            answer = self.prompts.answer(completion.token_ids, thinking=self.settings.thinks)
            state.usage.add(request, [completion])
            state.usage.num_thinking_tokens += answer.num_thinking_tokens
            texts.append(answer.text)
            points.append(parse_points(answer.final))
        return Ranked(points_scores(points), judgements=texts)


def points_prompt(
    prompts: PromptBuilder, problem: str, steps: Sequence[str], *, thinking: bool = False
) -> TokenIds:
    """The prompt after which the judge explains and gives a solution its points."""
    texts = {"problem": problem, "solution": "\n".join(steps)}
    return prompts.judging_ids("points", texts, thinking=thinking)


def points_scores(points: Sequence[int | None]) -> list[float]:
    """Scores from points: an unparsable judgement counts as the mean of the others, so that it
    makes its candidate neither best nor worst."""
    known = [value for value in points if value is not None]
    mean = sum(known) / len(known) if known else 0.0
    return [mean if value is None else float(value) for value in points]


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


# How a ranking is made for one search, by its name in `method.ranking`.
RANKINGS: dict[str, Callable[[PromptBuilder, Config], Ranking]] = {
    "pairwise": lambda prompts, config: pairwise_ranking(prompts, config, config.method.judge_role),
    "points": lambda prompts, config: PointsRanking(
        prompts, config.judge, config.model.max_length, config.method.judge_role
    ),
    "random": lambda _prompts, config: RandomRanking(config.seed),
    "longest": lambda _prompts, config: LongestRanking(config.seed),
    "oracle": lambda _prompts, config: OracleRanking(config.method.unit),
}


def ranking_factory(config: Config) -> Callable[[PromptBuilder, Config], Ranking]:
    """The factory of the ranking that `method.ranking` names. Raises ``PsrError`` where it is the user's
    and does not fit."""
    name, takes = config.method.ranking, ("prompts", "config")
    found: Callable[[PromptBuilder, Config], Ranking] = find(
        "method.ranking", name, RANKINGS, takes, ("rank",)
    )
    return found


def ranking_of(config: Config, prompts: PromptBuilder) -> Ranking:
    """A ranking for one search, by the config's method."""
    return ranking_factory(config)(prompts, config)
