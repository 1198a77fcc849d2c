"""Which candidates are right, where that can be known. Graded for reports and the oracle control;
the method itself never looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from psr_ray.answers import extract_boxed, is_equal
from psr_ray.embedded.arithmetic import Plan, step_is_right
from psr_ray.problems import Problem


def right_candidates(
    problem: Problem,
    steps_so_far: Sequence[str],
    texts: Sequence[str],
    unit: Literal["step", "solution"],
) -> list[bool] | None:
    """Whether each candidate is right: a step by the problem's plan, a solution by its answer.

    None where the problem has no plan (or no answer) to grade by.
    """
    if unit == "solution":
        if problem.answer is None:
            return None
        return [is_equal(problem.answer, extract_boxed(text)) for text in texts]
    if problem.plan is None:
        return None
    plan = Plan.from_key(problem.plan)
    return [step_is_right(plan, list(steps_so_far), text) for text in texts]
