"""From a task row to the coroutine that does it, and from its result to the row that is written."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from psr_ray.config import Config
from psr_ray.generation import EngineTask, GenerationRequest
from psr_ray.judge import Comparison
from psr_ray.prompts import PromptBuilder
from psr_ray.records import (
    JUDGEMENT_SCHEMA,
    SEARCH_SCHEMA,
    SOLUTION_SCHEMA,
    judgement_row,
    search_row,
    solution_row,
)
from psr_ray.rows import Row, pair_of, problem_of
from psr_ray.search import ProblemTooLong, judge_requests, read_verdict, search_steps

SCHEMAS: dict[str, pa.Schema] = {
    "search": SEARCH_SCHEMA,
    "solve": SOLUTION_SCHEMA,
    "judge": JUDGEMENT_SCHEMA,
}


def output_folder(stage: Path, task: str) -> Path:
    """Where the shards of one kind of task lie within a stage's folder."""
    return stage / task


def search_task(row: Row, prompts: PromptBuilder, config: Config) -> EngineTask[Row]:
    """Step search of a problem (the method)."""
    search = yield from search_steps(
        problem_of(row), prompts, config.search, config.judge, config.model.max_length
    )
    return search_row(search)


def solve_task(row: Row, prompts: PromptBuilder, config: Config) -> EngineTask[Row]:
    """One greedy solution of a problem."""
    prompt = prompts.solve_ids(row["problem"])
    room = config.model.max_length - len(prompt)
    if room < 1:
        raise ProblemTooLong(
            f"prompt of {len(prompt)} tokens leaves no room in max_length {config.model.max_length}"
        )
    [[completion]] = yield [
        GenerationRequest(
            prompt_ids=prompt,
            num_samples=1,
            temperature=0.0,
            top_p=1.0,
            max_tokens=min(room, config.evaluation.max_tokens),
        )
    ]
    return solution_row(
        row["id"],
        row["problem"],
        row["answer"],
        prompts.decode(completion.token_ids),
        len(completion.token_ids),
        completion.finish,
    )


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
    [first], [second] = yield requests
    return judgement_row(
        pair,
        read_verdict(first, prompts),
        read_verdict(second, prompts),
        len(first.token_ids) + len(second.token_ids),
    )


TASKS = {"search": search_task, "solve": solve_task, "judge": judge_task}


def failed_row(row: Row, error: Exception) -> Row:
    """The row that stands for a task that failed: its id and one line of reason."""
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    failed: Row = {"id": row["id"], "error": reason}
    if row["task"] != "judge":
        failed |= {"problem": row["problem"], "answer": row["answer"]}
    return failed


def num_tokens(row: Row) -> int:
    """Tokens generated for a finished row, for the progress display."""
    names = ("num_sampled_tokens", "num_judge_tokens", "num_tokens")
    return sum(row.get(name) or 0 for name in names)
