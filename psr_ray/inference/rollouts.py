"""Step trees for EFT: candidates of each step, valued by rollouts that are graded.

The value of a step is the share of solutions sampled from it that end with the right answer
(Math-Shepherd, arXiv 2312.08935, soft estimation); the paper (arXiv 2503.03746, 3.1) asks a PRM instead.
"""

from __future__ import annotations

import pyarrow as pa

from psr_ray.answers import extract_boxed, is_equal
from psr_ray.config import Config
from psr_ray.data.rows import problem_of
from psr_ray.method.generation import Completion, EngineTask, GenerationRequest, Usage
from psr_ray.method.prompts import PromptBuilder
from psr_ray.method.search import ProblemTooLong
from psr_ray.method.steps import Candidate, merge, model_ends, sample_steps
from psr_ray.storage.files import Row

TREE_CANDIDATE = pa.struct(
    [
        ("text", pa.string()),
        ("count", pa.int32()),
        ("ended", pa.bool_()),
        ("value", pa.float64()),
    ]
)
TREE_STEP = pa.struct(
    [
        ("number", pa.int32()),
        ("steps_so_far", pa.list_(pa.string())),
        ("candidates", pa.list_(TREE_CANDIDATE)),
    ]
)
TREE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("problem", pa.string()),
        ("answer", pa.string()),
        ("steps", pa.list_(TREE_STEP)),
        ("end", pa.string()),
        ("num_tokens", pa.int64()),
        ("error", pa.string()),
    ]
)


def tree_task(row: Row, prompts: PromptBuilder, config: Config) -> EngineTask[Row]:
    """The step tree of one problem with a known answer.

    Continues with the best candidate (of equal ones, the most sampled). ``end`` is ``finished``,
    ``no_right_rollout`` (nothing right is reached from here any more), ``max_steps``, ``max_length``,
    ``no_step`` or ``step_too_long``.
    Raises ``ProblemTooLong`` where the prompt leaves no room for a step.
    """
    problem, max_tokens = problem_of(row), config.search.max_step_tokens
    prefix = prompts.solve_ids(problem.text)
    if len(prefix) + len(prompts.opening_ids(1)) + max_tokens > config.model.max_length:
        raise ProblemTooLong(f"prompt of {len(prefix)} tokens + {max_tokens} > max_length")
    path, steps, end = list[Candidate](), list[Row](), "max_steps"
    num_rollout_tokens, usage = 0, Usage()
    for number in range(1, config.search.max_steps + 1):
        opening, width = prompts.opening_ids(number), config.search.num_candidates
        prefix += opening
        if len(prefix) + max_tokens > config.model.max_length:
            end = "max_length"
            break
        asked = request(prefix, width, max_tokens, config, prompts.stop)
        sampled = yield from sample_steps(asked, prompts.decode, usage, opened=bool(opening))
        candidates = merge(sampled, prompts.decode, opening)
        ends = model_ends(sampled, prompts.decode)
        if path and ends:  # right, or it would have ended before
            end = "finished"
            break
        if not candidates:
            end = "no_step" if ends else "step_too_long"
            break
        so_far = [step.text for step in path]
        values, spent = yield from rollout_values(
            problem.answer or "", prefix, so_far, candidates, prompts, config
        )
        num_rollout_tokens += spent
        steps.append(
            {
                "number": number,
                "steps_so_far": so_far,
                "candidates": [
                    {"text": c.text, "count": c.count, "ended": c.ended, "value": value}
                    for c, value in zip(candidates, values, strict=True)
                ],
            }
        )
        place = max(range(len(candidates)), key=lambda i: (values[i], candidates[i].count, -i))
        path.append(candidates[place])
        prefix += candidates[place].token_ids
        if not values[place] or candidates[place].ended:
            end = "finished" if values[place] else "no_right_rollout"
            break
    return {
        "id": row["id"],
        "problem": row["problem"],
        "answer": row["answer"],
        "steps": steps,
        "end": end,
        "num_tokens": usage.num_sampled_tokens + num_rollout_tokens,
        "error": None,
    }


def rollout_values(
    answer: str,
    prefix: tuple[int, ...],
    so_far: list[str],
    candidates: list[Candidate],
    prompts: PromptBuilder,
    config: Config,
) -> EngineTask[tuple[list[float], int]]:
    """The value of each candidate, 0 to 1, and the tokens that the rollouts took. A candidate that ends
    the solution is graded itself; one that leaves no room for more has the value 0."""
    opening = prompts.opening_ids(len(so_far) + 2)
    open_ones, requests = list[int](), list[GenerationRequest]()
    values = [0.0] * len(candidates)
    befores = ["\n".join([*so_far, candidate.text]) for candidate in candidates]
    for place, candidate in enumerate(candidates):
        room = config.model.max_length - len(prefix) - len(candidate.token_ids) - len(opening)
        if candidate.ended:
            values[place] = float(is_equal(answer, extract_boxed(befores[place])))
        elif room > 0:
            tokens = min(room, config.evaluation.max_tokens)
            start, samples = prefix + candidate.token_ids + opening, config.seed_data.num_rollouts
            requests.append(request(start, samples, tokens, config))
            open_ones.append(place)
    if not requests:
        return values, 0
    results = yield requests
    for place, completions in zip(open_ones, results, strict=True):
        solutions = [
            f"{befores[place]}\n{prompts.decode(opening + c.token_ids)}" for c in completions
        ]
        right = [is_equal(answer, extract_boxed(solution)) for solution in solutions]
        values[place] = sum(right) / len(right)
    return values, sum(map(count, results))


def request(
    prefix: tuple[int, ...],
    num_samples: int,
    max_tokens: int,
    config: Config,
    stop: str | None = None,
) -> GenerationRequest:
    """Samples that continue a prefix: to the end of a step, or of the solution."""
    return GenerationRequest(
        prompt_ids=prefix,
        num_samples=num_samples,
        temperature=config.seed_data.temperature,
        top_p=config.seed_data.top_p,
        max_tokens=max_tokens,
        stop=stop,
    )


def count(completions: list[Completion]) -> int:
    """Tokens of some completions."""
    return sum(len(completion.token_ids) for completion in completions)
