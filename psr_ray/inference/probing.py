"""The task that ranks a probe again: a step of M1's searches, and this model's own step beside it."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from psr_ray.config import Config
from psr_ray.data.rows import problem_of
from psr_ray.method.generation import EngineTask, GenerationRequest, Usage
from psr_ray.method.judge import JudgementTooLong
from psr_ray.method.prompts import PromptBuilder
from psr_ray.method.ranking import State, pairwise_ranking
from psr_ray.method.steps import Candidate, merge, sample_steps
from psr_ray.method.truth import right_candidates
from psr_ray.method.verdicts import scores, win
from psr_ray.storage.files import Row

PROBE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("scores", pa.list_(pa.float64())),  # of M1's candidates, by this model as judge
        ("own_text", pa.string()),
        ("own_win", pa.float64()),  # its own step against M1's candidates, as it judges
        ("own_true_win", pa.float64()),  # the same by the truth
        ("num_tokens", pa.int64()),
        ("error", pa.string()),
    ]
)


def probe_task(row: Row, prompts: PromptBuilder, config: Config) -> EngineTask[Row]:
    """Candidates that M1 once ranked, ranked again together with this model's own greedy step."""
    others = [
        Candidate(tuple(c["token_ids"]), c["text"], c["count"], c["ended"])
        for c in row["candidates"]
    ]
    request = GenerationRequest(
        prompt_ids=tuple(row["prefix_ids"]),
        num_samples=1,
        temperature=0.0,
        top_p=1.0,
        max_tokens=config.search.max_step_tokens,
        stop=prompts.stop,
    )
    usage = Usage()
    completions = yield from sample_steps(request, prompts.decode, usage)
    opening = prompts.opening_ids(len(row["steps_so_far"]) + 1)
    own = merge(completions, prompts.decode, opening)  # empty where it did not end
    texts = [c.text for c in others]
    everyone = others + [c for c in own if c.text not in texts]
    problem, so_far = problem_of(row), list(row["steps_so_far"])
    state = State(problem, tuple(row["prefix_ids"]), so_far, 0, usage)
    ranking = pairwise_ranking(prompts, config, "policy")
    try:
        ranked = yield from ranking.rank(state, everyone)
    except JudgementTooLong:  # with its own step
        own, everyone = [], others
        ranked = yield from ranking.rank(state, everyone)
    texts = [c.text for c in everyone]
    truth = right_candidates(problem, so_far, texts, "step")
    place = texts.index(own[0].text) if own else None
    wins = true_wins = None
    if place is not None:
        wins = mean_win(others, [win(ranked.verdicts, place, j) for j in range(len(others))])
        if truth is not None:
            against = [(1 + truth[place] - truth[j]) / 2 for j in range(len(others))]
            true_wins = mean_win(others, against)
    return {
        "id": row["id"],
        "scores": scores([c.count for c in others], ranked.verdicts),
        "own_text": own[0].text if own else None,
        "own_win": wins,
        "own_true_win": true_wins,
        "num_tokens": usage.num_sampled_tokens + usage.num_judge_tokens,
        "error": None,
    }


def mean_win(others: Sequence[Candidate], wins: Sequence[float]) -> float:
    """Mean win over all sampled candidates."""
    total = sum(c.count * value for c, value in zip(others, wins, strict=True))
    return total / sum(c.count for c in others)
