"""A search's own steps judged again and labelled by the model itself, for its judge to learn from.

Two things can label a pair of steps. *Rollouts*: a step's value is the share of solutions sampled from
it that end with the answer of most of them (Math-Shepherd's soft estimation, arXiv 2312.08935, with the
majority's answer for the true one, as in arXiv 2504.16084). *Agreement*: most of the judgements sampled
in both orders name one step. What is learned is a judgement that the model itself sampled and that names
the better step (as rationales are in STaR, arXiv 2203.14465).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from psr_ray.answers import extract_boxed, groups_of
from psr_ray.config import Config, RefreshConfig
from psr_ray.method.generation import Completion, EngineTask, GenerationRequest, Usage
from psr_ray.method.judge import Judge, JudgementTooLong, check_room, parse_verdict
from psr_ray.method.judges import judge_of
from psr_ray.method.prompts import PromptBuilder
from psr_ray.method.search import Search, SearchedStep
from psr_ray.method.steps import Candidate
from psr_ray.method.truth import right_candidates
from psr_ray.method.verdicts import Verdict, first_wins, pick
from psr_ray.storage.files import Row

JUDGED = pa.struct(
    [
        ("number", pa.int32()),
        ("steps_so_far", pa.list_(pa.string())),
        ("step_a", pa.string()),
        ("step_b", pa.string()),
        ("judgement", pa.string()),
        ("verdict", pa.string()),
        ("by", pa.string()),  # what labelled the pair: rollouts, agreement, both or truth
        ("gap", pa.float64()),  # between the values of A and B, where rollouts have a majority
        ("is_right", pa.bool_()),  # whether the verdict's step alone is right, where it is known
    ]
)


@dataclass(frozen=True)
class StepPair:
    """Two candidates of a step."""

    step: SearchedStep
    candidates: tuple[Candidate, Candidate]

    @property
    def texts(self) -> list[str]:
        return [candidate.text for candidate in self.candidates]


def pairs_to_judge(search: Search, config: Config, num: int) -> list[StepPair]:
    """The best and the worst candidate of ``num`` steps at most, drawn by chance; of equal scores the
    two most sampled."""
    steps = [step for step in search.steps if len(step.candidates) > 1]
    rng = random.Random(f"refresh/{config.seed}/{search.problem.id}")
    pairs = []
    for step in rng.sample(steps, min(num, len(steps))):
        best, worst = pick(step.scores, step.candidates, config.search.tie_break)
        if best == worst:
            best, worst = 0, 1
        pairs.append(StepPair(step, (step.candidates[best], step.candidates[worst])))
    return pairs


def refresh_task(
    search: Search, prompts: PromptBuilder, config: Config
) -> EngineTask[tuple[list[Row], int]]:
    """Judged pairs of a finished search, in the columns of ``JUDGED``, and the tokens that they took."""
    settings = config.refresh
    assert settings is not None
    judge, usage = judge_of(prompts, config.judge), Usage()
    asked = list[tuple[StepPair, list[GenerationRequest]]]()
    for pair in pairs_to_judge(search, config, settings.pairs_per_problem):
        requests = judgements(pair, search, judge, settings)
        try:
            check_room(requests, config.model.max_length)
        except JudgementTooLong:
            continue
        asked.append((pair, requests + rollouts(pair, prompts, config)))
    if not asked:
        return [], 0
    flat = [request for _, requests in asked for request in requests]
    answers = yield flat
    for request, completions in zip(flat, answers, strict=True):
        usage.add(request, completions)
    rows, answered = list[Row](), iter(answers)
    for pair, requests in asked:
        forward, backward, *rolled = [next(answered) for _ in requests]
        read = [[judge.read(one) for one in completions] for completions in (forward, backward)]
        gap = value_gap(pair, rolled, prompts, settings) if settings.num_rollouts else None
        rows += judged_rows(pair, search, judge, read, gap, settings)
    return rows, usage.num_sampled_tokens + usage.num_judge_tokens


def judgements(
    pair: StepPair, search: Search, judge: Judge, settings: RefreshConfig
) -> list[GenerationRequest]:
    """Requests for sampled judgements, in both orders; of a judge that writes nothing, one each."""
    num = settings.num_judgements if judge.max_tokens > 1 else 1
    found = []
    for a, b in (pair.texts, pair.texts[::-1]):
        prompt = judge.prompt(search.problem.text, pair.step.steps_so_far, a, b)
        request = judge.request(prompt, "compare")
        found.append(
            replace(request, num_samples=num, temperature=settings.temperature, max_seconds=None)
        )
    return found


def rollouts(pair: StepPair, prompts: PromptBuilder, config: Config) -> list[GenerationRequest]:
    """Requests for solutions that go on from each candidate that does not end its solution; none where
    there is no room."""
    assert config.refresh is not None
    opening = prompts.opening_ids(pair.step.number + 1)
    starts = [
        pair.step.prefix_ids + candidate.token_ids + opening
        for candidate in pair.candidates
        if not candidate.ended
    ]
    room = config.model.max_length - max(map(len, starts), default=0)
    if not config.refresh.num_rollouts or room < 1:
        return []
    return [
        GenerationRequest(
            prompt_ids=start,
            num_samples=config.refresh.num_rollouts,
            temperature=config.search.temperature,
            top_p=config.search.top_p,
            max_tokens=min(room, config.evaluation.max_tokens),
        )
        for start in starts
    ]


def value_gap(
    pair: StepPair,
    rolled: Sequence[Sequence[Completion]],
    prompts: PromptBuilder,
    settings: RefreshConfig,
) -> float | None:
    """The first step's value less the second's; None without a majority among their rollouts."""
    going_on, opening = iter(rolled), prompts.opening_ids(pair.step.number + 1)
    found = list[list[str | None]]()
    for candidate in pair.candidates:
        before = "\n".join([*pair.step.steps_so_far, candidate.text])
        if candidate.ended:
            found.append([extract_boxed(before)] * settings.num_rollouts)
        else:
            texts = (prompts.decode(opening + one.token_ids) for one in next(going_on, ()))
            found.append([extract_boxed(f"{before}\n{text}") for text in texts])
    if not all(found):
        return None
    groups = groups_of((*found[0], *found[1]))
    votes = Counter(group for group in groups if group is not None).most_common(2)
    is_drawn = len(votes) == 2 and votes[0][1] == votes[1][1]
    if not votes or is_drawn or votes[0][1] < settings.min_majority * len(groups):
        return None
    reached = [group == votes[0][0] for group in groups]
    num = len(found[0])
    return sum(reached[:num]) / num - sum(reached[num:]) / len(found[1])


def label(
    support: float, gap: float | None, truth: Sequence[bool] | None, settings: RefreshConfig
) -> tuple[bool, str] | None:
    """Whether the first step is the better one, and what says so; None where nothing does, or rollouts
    and judgements name different steps. ``support`` is the judgements' share for the first step."""
    if settings.labels == "truth":
        return (truth[0], "truth") if truth is not None and truth[0] != truth[1] else None
    by = dict[str, bool]()
    if gap is not None and gap and abs(gap) >= settings.min_gap:
        by["rollouts"] = gap > 0
    if max(support, 1 - support) >= settings.min_agreement and support != 0.5:
        by["agreement"] = support > 0.5
    if len(set(by.values())) != 1:
        return None
    return next(iter(by.values())), "both" if len(by) == 2 else next(iter(by))


def judged_rows(
    pair: StepPair,
    search: Search,
    judge: Judge,
    read: Sequence[Sequence[Verdict]],
    gap: float | None,
    settings: RefreshConfig,
) -> list[Row]:
    """The pair in each order of which a judgement names the better step; none without a label."""
    forward, backward = ([first_wins(verdict) for verdict in verdicts] for verdicts in read)
    wins = [*forward, *(1 - value for value in backward)]
    truth = right_candidates(search.problem, pair.step.steps_so_far, pair.texts, "step")
    found = label(sum(wins) / len(wins), gap, truth, settings)
    if found is None:
        return []
    first_is_better, by = found
    rows = []
    for verdicts, is_forward in zip(read, (True, False), strict=True):
        letter = "A" if first_is_better == is_forward else "B"
        text = judgement_for(letter, verdicts, judge)
        if text is None:
            continue
        (a, b), sign = (pair.texts, 1) if is_forward else (pair.texts[::-1], -1)
        rows.append(
            {
                "number": pair.step.number,
                "steps_so_far": pair.step.steps_so_far,
                "step_a": a,
                "step_b": b,
                "judgement": text,
                "verdict": letter,
                "by": by,
                "gap": None if gap is None else sign * gap,
                "is_right": None
                if truth is None
                else truth == [first_is_better, not first_is_better],
            }
        )
    return rows


def judgement_for(letter: str, verdicts: Sequence[Verdict], judge: Judge) -> str | None:
    """Of the sampled judgements that end with a letter, and find it the likelier one, the text that was
    sampled most often; a judge that writes nothing has only the letter."""
    if judge.max_tokens == 1:
        return f"[[{letter}]]"
    wanted = float(letter == "A")
    texts = [
        verdict.text
        for verdict in verdicts
        if parse_verdict(verdict.text).first_wins == wanted
        and abs(first_wins(verdict) - wanted) < 0.5
    ]
    return Counter(texts).most_common(1)[0][0] if texts else None


def judged_task_rows(search: Row) -> list[Row]:
    """The judged pairs of a search row as rows of the kind that `data.eft` has."""
    found = []
    for judged in search.get("judged") or []:
        name = f"{search['id']}#{judged['number']}-{judged['verdict']}"
        parts = ("steps_so_far", "step_a", "step_b", "judgement", "verdict")
        row = {"task": "judge", "id": name} | {
            key: search[key] for key in ("problem", "answer", "plan")
        }
        found.append(row | {key: judged[key] for key in parts})
    return found
