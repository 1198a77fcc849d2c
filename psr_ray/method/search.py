"""The step search of one problem as a coroutine (arXiv 2503.03746, section 3). No I/O, no engine.

It yields requests and is sent their completions; its driver may run thousands at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from psr_ray.config import Config
from psr_ray.method.generation import EngineTask, GenerationRequest, Usage
from psr_ray.method.judge import JudgementTooLong, Notes
from psr_ray.method.prompts import PromptBuilder
from psr_ray.method.ranking import Ranking, State
from psr_ray.method.steps import Candidate, merge, model_ends, sample_steps
from psr_ray.method.verdicts import Comparison, Verdict, is_tie, pick
from psr_ray.problems import Problem

Outcome = Literal["appended", "appended_without_pair", "rolled_back"]


@dataclass
class SearchedStep:
    """The record of one step: candidates, verdicts or judgements, scores, outcome.

    ``kept`` turns false when a later rollback drops the step and its pair.
    """

    number: int
    prefix_ids: tuple[int, ...]
    steps_so_far: list[str]
    candidates: list[Candidate]
    verdicts: dict[Comparison, Verdict]
    judgements: list[str]
    notes: Notes | None
    scores: list[float]
    outcome: Outcome
    chosen: int | None = None
    rejected: int | None = None
    kept: bool = True
    is_tied: bool = False
    """Whether the ranking gave no preference: all scores equal, or no lead beyond the judge's error."""
    is_spent: bool = False
    """Whether the judge's tokens for this problem were used up before it was decided."""
    num_truncated: int = 0
    opening_ids: tuple[int, ...] = ()
    """The last ids of ``prefix_ids`` where they begin this step: given, not sampled."""


@dataclass
class Search:
    """The complete record of a search. ``steps`` is in order of time and includes rolled-back steps."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    unit: Literal["step", "solution"] = "step"
    steps: list[SearchedStep] = field(default_factory=list)
    end: str = ""
    num_rollbacks: int = 0
    usage: Usage = field(default_factory=Usage)

    def kept_steps(self) -> list[SearchedStep]:
        """The steps of the final solution, first to last."""
        return [step for step in self.steps if step.kept]

    def path_ids(self) -> tuple[int, ...]:
        """The prompt and the final solution so far, with the openings of its steps."""
        ids = self.prompt_ids
        for step in self.kept_steps():
            if step.chosen is not None:
                ids += step.opening_ids + step.candidates[step.chosen].token_ids
        return ids

    def chosen(self) -> list[Candidate]:
        """The candidates of the final solution, first to last."""
        return [s.candidates[s.chosen] for s in self.kept_steps() if s.chosen is not None]


class ProblemTooLong(Exception):
    """The prompt leaves no room for a step."""


def search_steps(
    problem: Problem, prompts: PromptBuilder, ranking: Ranking, config: Config
) -> EngineTask[Search]:
    """Search one problem step by step; returns the complete record.

    With ``method.unit: solution`` the one step is a complete solution, and a tie that would go back ends
    the search: there is no step to go back to.

    A round samples and ranks the candidates of one step. ``search.max_steps`` counts rounds, those that
    end in a rollback too (the paper's "max iteration number").

    ``end`` is ``finished`` (the chosen step ended the solution, or at least half of the samples that
    follow it are EOS alone), ``max_steps``, ``max_rollbacks``,
    ``max_length`` (no room for another step, or for a judgement of these candidates),
    ``step_too_long`` (no candidate ended in its tokens), ``no_step`` (the model ended before it wrote
    one) or ``tie`` (of complete solutions).
    Raises ``ProblemTooLong`` where the prompt alone leaves no room for a step.
    """
    search, whole = config.search, config.method.unit == "solution"
    max_length = config.model.max_length
    max_tokens = config.evaluation.max_tokens if whole else search.max_step_tokens
    stop = None if whole else prompts.stop
    record = Search(problem, prompts.solve_ids(problem.text), config.method.unit)
    if len(record.prompt_ids) + len(prompts.opening_ids(1)) + max_tokens > max_length:
        raise ProblemTooLong(
            f"prompt of {len(record.prompt_ids)} tokens + {max_tokens} for a "
            f"{config.method.unit} > max_length {max_length}"
        )
    for _ in range(search.max_steps):
        path = record.kept_steps()
        opening = prompts.opening_ids(len(path) + 1)
        prefix = record.path_ids() + opening
        if len(prefix) + max_tokens > max_length:
            record.end = "max_length"
            return record
        request = GenerationRequest(
            prompt_ids=prefix,
            num_samples=search.num_candidates,
            temperature=search.temperature,
            top_p=search.top_p,
            max_tokens=max_tokens,
            stop=stop,
            draw=len(record.steps),
        )
        if whole:
            [completions] = yield [request]
            record.usage.add(request, completions)
        else:
            completions = yield from sample_steps(
                request, prompts.decode, record.usage, opened=bool(opening)
            )
        candidates, ends = (
            merge(completions, prompts.decode, opening),
            model_ends(completions, prompts.decode),
        )
        if path and ends:
            record.end = "finished"
            return record
        if not candidates:
            record.end = "no_step" if ends else "step_too_long"
            return record
        so_far = [c.text for c in record.chosen()]
        state = State(problem, prefix, so_far, len(record.steps), record.usage)
        try:
            ranked = yield from ranking.rank(state, candidates)
        except JudgementTooLong:
            record.end = "max_length"
            return record
        step = SearchedStep(
            number=len(path) + 1,
            prefix_ids=prefix,
            steps_so_far=so_far,
            candidates=candidates,
            verdicts=ranked.verdicts,
            judgements=ranked.judgements,
            notes=ranked.notes,
            scores=ranked.scores,
            outcome="appended",
            num_truncated=search.num_candidates - sum(c.count for c in candidates),
            opening_ids=opening,
        )
        record.steps.append(step)
        identical = len(candidates) == 1
        is_equal = is_tie(ranked.scores) or not ranked.has_lead
        tied = is_equal and not (identical and search.when_all_identical == "accept")
        step.is_spent, step.is_tied = ranked.is_spent, is_equal and not identical
        step.is_tied &= not step.is_spent
        goes_back = identical or config.when_tied == "rollback"
        if tied and not ranked.is_spent and goes_back:
            step.outcome, step.kept = "rolled_back", False
            if whole:
                record.end = "tie"
                return record
            if path:
                path[-1].kept = False
            record.num_rollbacks += 1
            if record.num_rollbacks > search.max_rollbacks:
                record.end = "max_rollbacks"
                return record
            continue
        step.chosen, worst = ranked.leaders or pick(ranked.scores, candidates, search.tie_break)
        if identical or tied or ranked.is_spent:
            step.outcome = "appended_without_pair"
            if not ranked.is_spent:  # a lead within the judge's error says nothing: all are equal
                step.chosen, _ = pick([0.0] * len(candidates), candidates, search.tie_break)
        else:
            step.rejected = worst
        if candidates[step.chosen].ended:
            record.end = "finished"
            return record
    record.end = "max_steps"
    return record
