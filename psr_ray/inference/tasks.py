"""From a task row to the coroutine that does it, and from its result to the row that is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from psr_ray.config import Config
from psr_ray.data.rows import pair_of, problem_of
from psr_ray.inference.probing import PROBE_SCHEMA, probe_task
from psr_ray.inference.records import (
    JUDGEMENT_SCHEMA,
    SAMPLES_SCHEMA,
    SOLUTION_SCHEMA,
    TEXT_SCHEMA,
    judgement_row,
    samples_row,
    solution_row,
    text_row,
)
from psr_ray.inference.refresh import refresh_task
from psr_ray.inference.rollouts import TREE_SCHEMA, tree_task
from psr_ray.inference.search_rows import SEARCH_SCHEMA, search_row
from psr_ray.method.generation import Completion, EngineTask, GenerationRequest, Usage
from psr_ray.method.judge import JudgementTooLong
from psr_ray.method.prompts import PromptBuilder
from psr_ray.method.ranking import State, pairwise_ranking, ranking_of
from psr_ray.method.search import ProblemTooLong, search_steps
from psr_ray.method.steps import merge
from psr_ray.method.verdicts import Comparison, pick
from psr_ray.storage.files import Row


def search_task(row: Row, prompts: PromptBuilder, config: Config) -> EngineTask[Row]:
    """Search of a problem, by the config's method; with `refresh`, pairs of its steps judged again."""
    ranking = ranking_of(config, prompts)
    search = yield from search_steps(problem_of(row), prompts, ranking, config)
    if config.refresh is None:
        return search_row(search)
    judged, num_tokens = yield from refresh_task(search, prompts, config)
    return search_row(search, judged, num_tokens)


def solution_request(
    row: Row, prompts: PromptBuilder, config: Config, num_samples: int, temperature: float
) -> GenerationRequest:
    """Complete solutions of a problem, from the beginning of the first step on."""
    prompt = prompts.solve_ids(row["problem"]) + prompts.opening_ids(1)
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
        prompts.answer(prompts.opening_ids(1) + completion.token_ids).final,
        len(completion.token_ids),
        completion.finish,
        row["plan"],
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
    opening = prompts.opening_ids(1)
    texts = [(prompts.answer(opening + c.token_ids).final, len(c.token_ids)) for c in completions]
    return samples_row(row["id"], row["answer"], texts, best, usage.num_judge_tokens)


def best_of(
    state: State, completions: Sequence[Completion], prompts: PromptBuilder, config: Config
) -> EngineTask[int | None]:
    """The position of the solution that wins most comparisons, in both orders, as a step would.

    With `judge.mode: shared` they are compared as in `verdict`: there is no one step to work out. None
    where none is complete, and where two of them are too long for the judge.
    """
    candidates = merge(completions, prompts.decode, prompts.opening_ids(1))
    if not candidates:
        return None
    if config.judge.mode == "shared":
        judge = config.judge.model_copy(update={"mode": "verdict", "critiques": False})
        config = config.model_copy(update={"judge": judge})
    ranking = pairwise_ranking(prompts, config, "policy")
    try:
        ranked = yield from ranking.rank(state, candidates)
    except JudgementTooLong:
        return None
    chosen, _ = pick(ranked.scores, candidates, config.search.tie_break)
    ids = [completion.token_ids for completion in completions]
    return ids.index(candidates[chosen].token_ids)


def judge_task(row: Row, prompts: PromptBuilder, config: Config) -> EngineTask[Row]:
    """A judged pair put to the judge again, in both orders."""
    pair, forward, usage = pair_of(row), Comparison(0, 1), Usage()
    state = State(pair.problem, (), pair.steps_so_far, 0, usage)
    ranking = pairwise_ranking(prompts, config, "policy")
    asked = [forward, forward.swap()]
    found = yield from ranking.compare(state, [pair.step_a, pair.step_b], asked)
    first, second = (found[comparison] for comparison in asked)
    return judgement_row(pair, first, second, usage)


def write_task(row: Row, prompts: PromptBuilder, config: Config) -> EngineTask[Row]:
    """The model's greedy completion of a prompt, which is the row's ``problem``."""
    prompt = prompts.text_ids(row["problem"])
    room = config.model.max_length - len(prompt)
    if room < 1:
        raise ProblemTooLong(f"prompt of {len(prompt)} tokens leaves no room in max_length")
    max_tokens = min(room, config.seed_data.max_tokens)
    [[completion]] = yield [GenerationRequest(prompt, 1, 0.0, 1.0, max_tokens)]
    text = prompts.decode(completion.token_ids)
    return text_row(row["id"], text, len(completion.token_ids), completion.finish)


@dataclass(frozen=True)
class Task:
    """One kind of work for an engine: the coroutine that does a row, and the columns that it returns."""

    run: Callable[[Row, PromptBuilder, Config], EngineTask[Row]]
    schema: pa.Schema


TASKS = {
    "search": Task(search_task, SEARCH_SCHEMA),
    "solve": Task(solve_task, SOLUTION_SCHEMA),
    "sample": Task(sample_task, SAMPLES_SCHEMA),
    "judge": Task(judge_task, JUDGEMENT_SCHEMA),
    "probe": Task(probe_task, PROBE_SCHEMA),
    "tree": Task(tree_task, TREE_SCHEMA),
    "write": Task(write_task, TEXT_SCHEMA),
}


def failed_row(row: Row, error: Exception) -> Row:
    """The row of a failed task: its id and one line of reason."""
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    failed: Row = {"id": row["id"], "error": reason}
    for name in ("problem", "answer"):
        if name in TASKS[row["task"]].schema.names:
            failed[name] = row[name]
    return failed


def num_tokens(row: Row) -> int:
    """Tokens generated for a finished row, for the progress display."""
    names = ("num_sampled_tokens", "num_judge_tokens", "num_refresh_tokens", "num_tokens")
    return sum(row.get(name) or 0 for name in names)
