"""From a task row to the coroutine that does it, and from its result to the row that is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from psr_ray.config import Config
from psr_ray.data.rows import pair_of, problem_of
from psr_ray.inference.records import judgement_row, samples_row, search_row, solution_row, text_row
from psr_ray.inference.rollouts import tree_task
from psr_ray.inference.schemas import (
    JUDGEMENT_SCHEMA,
    PROBE_SCHEMA,
    SAMPLES_SCHEMA,
    SEARCH_SCHEMA,
    SOLUTION_SCHEMA,
    TEXT_SCHEMA,
    TREE_SCHEMA,
)
from psr_ray.method.generation import Completion, EngineTask, GenerationRequest, Usage
from psr_ray.method.judge import Comparison, scores, win
from psr_ray.method.prompts import PromptBuilder
from psr_ray.method.ranking import (
    JudgementTooLong,
    PairwiseRanking,
    State,
    check_room,
    judge_requests,
    ranking_of,
    read_verdict,
)
from psr_ray.method.search import ProblemTooLong, pick, search_steps
from psr_ray.method.steps import Candidate, merge, sample_steps
from psr_ray.method.truth import right_candidates
from psr_ray.storage.files import Row

SCHEMAS: dict[str, pa.Schema] = {
    "search": SEARCH_SCHEMA,
    "solve": SOLUTION_SCHEMA,
    "hard": SOLUTION_SCHEMA,
    "benchmark": SOLUTION_SCHEMA,
    "sample": SAMPLES_SCHEMA,
    "benchmark-search": SEARCH_SCHEMA,
    "benchmark-sample": SAMPLES_SCHEMA,
    "probe": PROBE_SCHEMA,
    "judge": JUDGEMENT_SCHEMA,
    "tree": TREE_SCHEMA,
    "write": TEXT_SCHEMA,
}


def output_folder(stage: Path, task: str) -> Path:
    """Where the shards of one kind of task lie within a stage's folder."""
    return stage / task


def search_task(row: Row, prompts: PromptBuilder, config: Config) -> EngineTask[Row]:
    """Search of a problem, by the config's method."""
    ranking = ranking_of(config, prompts)
    search = yield from search_steps(problem_of(row), prompts, ranking, config)
    return search_row(search)


def solution_request(
    row: Row, prompts: PromptBuilder, config: Config, num_samples: int, temperature: float
) -> GenerationRequest:
    """Whole solutions of a problem."""
    prompt = prompts.solve_ids(row["problem"])
    room = config.model.max_length - len(prompt)
    if room < 1:
        raise ProblemTooLong(
            f"prompt of {len(prompt)} tokens leaves no room in max_length {config.model.max_length}"
        )
    return GenerationRequest(
        prompt_ids=prompt,
        num_samples=num_samples,
        temperature=temperature,
        top_p=config.search.top_p if temperature else 1.0,
        max_tokens=min(room, config.evaluation.max_tokens),
    )


def solve_task(row: Row, prompts: PromptBuilder, config: Config) -> EngineTask[Row]:
    """One greedy solution of a problem."""
    [[completion]] = yield [solution_request(row, prompts, config, 1, 0.0)]
    return solution_row(
        row["id"],
        row["problem"],
        row["answer"],
        prompts.decode(completion.token_ids),
        len(completion.token_ids),
        completion.finish,
    )


def sample_task(row: Row, prompts: PromptBuilder, config: Config) -> EngineTask[Row]:
    """Sampled solutions of a problem, at the search's temperature; with ``evaluation.best_of`` the place
    of the one that the model prefers among them, too."""
    request = solution_request(
        row, prompts, config, config.evaluation.num_samples, config.search.temperature
    )
    [completions] = yield [request]
    best, usage = None, Usage()
    if config.evaluation.best_of:
        state = State(problem_of(row), request.prompt_ids, [], 0, usage)
        best = yield from best_of(state, completions, prompts, config)
    texts = [(prompts.decode(c.token_ids), len(c.token_ids)) for c in completions]
    return samples_row(row["id"], row["answer"], texts, best, usage.num_judge_tokens)


def best_of(
    state: State, completions: Sequence[Completion], prompts: PromptBuilder, config: Config
) -> EngineTask[int | None]:
    """The place of the whole solution that wins most comparisons, in both orders, as a step would.

    None where none came to its end, and where two of them are too long for the judge.
    """
    candidates = merge(completions, prompts.decode)
    if not candidates:
        return None
    ranking = PairwiseRanking(prompts, config.judge, config.model.max_length)
    try:
        ranked = yield from ranking.rank(state, candidates)
    except JudgementTooLong:
        return None
    chosen, _ = pick(ranked.scores, candidates, config.search.tie_break)
    ids = [completion.token_ids for completion in completions]
    return ids.index(candidates[chosen].token_ids)


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
    own = merge(completions, prompts.decode)  # empty where it did not end
    texts = [c.text for c in others]
    everyone = others + [c for c in own if c.text not in texts]
    problem, so_far = problem_of(row), list(row["steps_so_far"])
    state = State(problem, tuple(row["prefix_ids"]), so_far, 0, usage)
    ranking = PairwiseRanking(prompts, config.judge, config.model.max_length)
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
        "scores": scores(others, ranked.verdicts),
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


def judge_task(row: Row, prompts: PromptBuilder, config: Config) -> EngineTask[Row]:
    """A judged pair put to the judge again, in both orders."""
    pair = pair_of(row)
    forward = Comparison(0, 1)
    requests = judge_requests(
        [forward, forward.swap()],
        pair.problem.text,
        pair.steps_so_far,
        [pair.step_a, pair.step_b],
        prompts,
        config.judge,
    )
    check_room(requests, config.model.max_length)
    [first], [second] = yield requests
    return judgement_row(
        pair,
        read_verdict(first, prompts),
        read_verdict(second, prompts),
        len(first.token_ids) + len(second.token_ids),
    )


def write_task(row: Row, prompts: PromptBuilder, config: Config) -> EngineTask[Row]:
    """What the model writes, greedily, after a prompt that stands in the row's ``problem``."""
    prompt = prompts.text_ids(row["problem"])
    room = config.model.max_length - len(prompt)
    if room < 1:
        raise ProblemTooLong(f"prompt of {len(prompt)} tokens leaves no room in max_length")
    max_tokens = min(room, config.seed_data.max_tokens)
    [[completion]] = yield [GenerationRequest(prompt, 1, 0.0, 1.0, max_tokens)]
    text = prompts.decode(completion.token_ids)
    return text_row(row["id"], text, len(completion.token_ids), completion.finish)


TASKS = {
    "search": search_task,
    "solve": solve_task,
    "hard": solve_task,
    "benchmark": solve_task,
    "sample": sample_task,
    "benchmark-search": search_task,
    "benchmark-sample": sample_task,
    "judge": judge_task,
    "probe": probe_task,
    "tree": tree_task,
    "write": write_task,
}


def failed_row(row: Row, error: Exception) -> Row:
    """The row that stands for a task that failed: its id and one line of reason."""
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    failed: Row = {"id": row["id"], "error": reason}
    for name in ("problem", "answer"):
        if name in SCHEMAS[row["task"]].names:
            failed[name] = row[name]
    return failed


def num_tokens(row: Row) -> int:
    """Tokens generated for a finished row, for the progress display."""
    names = ("num_sampled_tokens", "num_judge_tokens", "num_tokens")
    return sum(row.get(name) or 0 for name in names)
