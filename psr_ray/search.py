"""The step search of one problem as a coroutine (arXiv 2503.03746, section 3). No I/O, no engine.

It yields requests and is sent their completions; whoever drives it may run thousands at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from psr_ray.config import JudgeConfig, SearchConfig
from psr_ray.generation import Completion, EngineTask, GenerationRequest
from psr_ray.judge import Comparison, Verdict, both_orders, is_tie, parse_verdict, scores
from psr_ray.problems import Problem
from psr_ray.prompts import PromptBuilder
from psr_ray.steps import Candidate, trim_to_step

Outcome = Literal["appended", "appended_without_pair", "rolled_back"]


@dataclass
class SearchedStep:
    """Everything that happened at one step: candidates, verdicts, scores, what came of it.

    ``kept`` turns false when a later rollback drops the step and its pair.
    """

    number: int
    prefix_ids: tuple[int, ...]
    candidates: list[Candidate]
    verdicts: dict[Comparison, Verdict]
    scores: list[float]
    outcome: Outcome
    chosen: int | None = None
    rejected: int | None = None
    kept: bool = True
    num_truncated: int = 0


@dataclass
class Search:
    """One search, kept whole. ``steps`` is in order of time and holds rolled-back steps too."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    steps: list[SearchedStep] = field(default_factory=list)
    end: str = ""
    num_rollbacks: int = 0
    num_sampled_tokens: int = 0
    num_judge_tokens: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0

    def kept_steps(self) -> list[SearchedStep]:
        """The steps of the final solution, first to last."""
        return [step for step in self.steps if step.kept]

    def chosen(self) -> list[Candidate]:
        """The candidates of the final solution, first to last."""
        return [s.candidates[s.chosen] for s in self.kept_steps() if s.chosen is not None]


class ProblemTooLong(Exception):
    """The prompt leaves no room for a step."""


def merge(
    completions: Sequence[Completion], prompts: PromptBuilder
) -> tuple[list[Candidate], list[str]]:
    """Distinct candidates, most sampled first, and the texts that were cut off (no candidates)."""
    counts: Counter[tuple[int, ...]] = Counter()
    ended: dict[tuple[int, ...], bool] = {}
    cut_off: list[str] = []
    for completion in completions:
        ids = trim_to_step(completion.token_ids, prompts.stop, prompts.decode)
        if completion.finish == "length" and len(ids) == len(completion.token_ids):
            cut_off.append(prompts.decode(ids))
            continue
        counts[ids] += 1
        ended[ids] = completion.finish == "eos" and len(ids) == len(completion.token_ids)
    candidates = [
        Candidate(ids, prompts.decode(ids).strip(), count, ended[ids])
        for ids, count in counts.most_common()
    ]
    return candidates, cut_off


def pick(
    step_scores: Sequence[float], candidates: Sequence[Candidate], rule: str
) -> tuple[int, int]:
    """Indices of chosen (best) and rejected (worst); ``rule`` settles partial ties."""

    def weight(index: int) -> int:
        return candidates[index].count if rule == "most_sampled" else 0

    order = range(len(candidates))
    chosen = max(order, key=lambda i: (step_scores[i], weight(i), -i))
    rejected = min(order, key=lambda i: (step_scores[i], -weight(i), i))
    return chosen, rejected


def judge_requests(
    comparisons: Sequence[Comparison],
    problem: str,
    steps_so_far: Sequence[str],
    texts: Sequence[str],
    prompts: PromptBuilder,
    settings: JudgeConfig,
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
        )
        for c in comparisons
    ]


def read_verdict(completion: Completion, prompts: PromptBuilder) -> Verdict:
    """The verdict of one completion, in either mode."""
    if completion.choice_probabilities:
        return Verdict(completion.choice_probabilities[0])
    return parse_verdict(prompts.decode(completion.token_ids))


def search_steps(
    problem: Problem,
    prompts: PromptBuilder,
    search: SearchConfig,
    judge: JudgeConfig,
    max_length: int,
) -> EngineTask[Search]:
    """Search one problem step by step; returns the whole search.

    ``end`` is ``finished`` (the chosen step ended the solution), ``max_steps``,
    ``max_rollbacks``, ``max_length`` or ``step_too_long`` (no candidate ended in its tokens).
    Raises ``ProblemTooLong`` where the prompt alone leaves no room for a step.
    """
    record = Search(problem, prompts.solve_ids(problem.text))
    if len(record.prompt_ids) + search.max_step_tokens > max_length:
        raise ProblemTooLong(
            f"prompt of {len(record.prompt_ids)} tokens + max_step_tokens "
            f"{search.max_step_tokens} > max_length {max_length}"
        )
    decided: dict[tuple[tuple[int, ...], str, str], Verdict] = {}
    for _ in range(search.max_steps + search.max_rollbacks):
        path = record.kept_steps()
        if len(path) == search.max_steps:
            break
        prefix = record.prompt_ids + tuple(i for c in record.chosen() for i in c.token_ids)
        if len(prefix) + search.max_step_tokens > max_length:
            record.end = "max_length"
            return record
        [completions] = yield [
            GenerationRequest(
                prompt_ids=prefix,
                num_samples=search.num_candidates,
                temperature=search.temperature,
                top_p=search.top_p,
                max_tokens=search.max_step_tokens,
                stop=prompts.stop,
            )
        ]
        record.num_sampled_tokens += sum(len(c.token_ids) for c in completions)
        count_cache(record, prefix, completions)
        candidates, cut_off = merge(completions, prompts)
        if not candidates:
            record.end = "step_too_long"
            return record
        verdicts = yield from compare(
            record, prefix, [c.text for c in candidates], decided, prompts, judge
        )
        step_scores = scores(candidates, verdicts)
        step = SearchedStep(
            number=len(path) + 1,
            prefix_ids=prefix,
            candidates=candidates,
            verdicts=verdicts,
            scores=step_scores,
            outcome="appended",
            num_truncated=len(cut_off),
        )
        record.steps.append(step)
        identical = len(candidates) == 1
        if is_tie(step_scores) and not (identical and search.when_all_identical == "accept"):
            step.outcome, step.kept = "rolled_back", False
            if path:
                path[-1].kept = False
            record.num_rollbacks += 1
            if record.num_rollbacks > search.max_rollbacks:
                record.end = "max_rollbacks"
                return record
            continue
        step.chosen, worst = pick(step_scores, candidates, search.tie_break)
        if identical:
            step.outcome = "appended_without_pair"
        else:
            step.rejected = worst
        if candidates[step.chosen].ended:
            record.end = "finished"
            return record
    record.end = "max_steps"
    return record


def compare(
    record: Search,
    prefix: tuple[int, ...],
    texts: list[str],
    decided: dict[tuple[tuple[int, ...], str, str], Verdict],
    prompts: PromptBuilder,
    judge: JudgeConfig,
) -> EngineTask[dict[Comparison, Verdict]]:
    """Verdicts of all pairs in both orders; what was decided before a rollback is not asked again."""
    so_far = [c.text for c in record.chosen()]
    everything = list(both_orders(len(texts)))
    asked = [c for c in everything if (prefix, texts[c.first], texts[c.second]) not in decided]
    if asked:
        requests = judge_requests(asked, record.problem.text, so_far, texts, prompts, judge)
        answers = yield requests
        for comparison, request, [completion] in zip(asked, requests, answers, strict=True):
            record.num_judge_tokens += len(completion.token_ids)
            count_cache(record, request.prompt_ids, [completion])
            key = (prefix, texts[comparison.first], texts[comparison.second])
            decided[key] = read_verdict(completion, prompts)
    return {c: decided[prefix, texts[c.first], texts[c.second]] for c in everything}


def count_cache(
    record: Search, prompt_ids: tuple[int, ...], completions: Sequence[Completion]
) -> None:
    """Add a request to the prefix-cache figures."""
    record.num_prompt_tokens += len(prompt_ids) * len(completions)
    record.num_cached_tokens += sum(c.num_cached_tokens for c in completions)


def truth_of(search: Search, step: SearchedStep) -> list[bool] | None:
    """Which candidates of a step are right; None where the problem has no gradable plan."""
    if search.problem.plan is None:
        return None
    from psr_ray.arithmetic import Plan, step_is_right

    plan = Plan.from_key(search.problem.plan)
    return [step_is_right(plan, path_before(search, step), c.text) for c in step.candidates]


def path_before(search: Search, step: SearchedStep) -> list[str]:
    """The texts of the steps that stood before ``step`` when it was searched."""
    path: list[str] = []
    for earlier in search.steps:
        if earlier is step:
            break
        if earlier.outcome == "rolled_back":
            path = path[:-1]
        elif earlier.chosen is not None:
            path.append(earlier.candidates[earlier.chosen].text)
    return path
