"""EFT for a judge of complete solutions: 0 to 5 additive points (arXiv 2401.10020, in miniature).

The judge sees the solution's steps under letters. It works the problem out itself and sets each step's
result beside its own, where its own stands. One point for each of the last four steps that is right,
counted as it goes; then one for the form: as many steps as the story has operations, the last with a
boxed answer::

    Work:
    82-19: 12-9=3, 8-1-1=6, so 63. A: 63 vs 63 right, 1.
    63/7: 6/7=0 r 6, 63/7=9, so 9. B: 8 vs 9 wrong, 1.
    Form 1. Score: 2
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator

from psr_ray.answers import extract_boxed
from psr_ray.embedded.arithmetic import HIGH, Plan, generate_problems
from psr_ray.embedded.seed import careless_steps, mark, shown_value, work_out
from psr_ray.problems import JudgedSolution

# Share of the solutions that stop before their last step, without a box.
SHARE_UNFINISHED = 0.05
# Steps with a slip other than a forgotten carry: as often wrong as right, results must be looked at.
SHARE_OTHER_SLIPS = 0.25
MOST_STEP_POINTS = 4
LETTERS = string.ascii_uppercase


def points_judgement(plan: Plan, steps: list[str]) -> tuple[str, int]:
    """The judge's text about a solution in steps, and its points."""
    values = plan.values()
    right, lines = 0, []
    for index, operation in enumerate(plan.operations):
        letter, wanted = LETTERS[index], values[index + 1]
        said = f"{letter} missing"
        if index < len(steps):
            stated = shown_value(steps[index])
            said = f"{letter}: {mark(stated, wanted)}"
            right += stated == wanted and index >= len(plan.operations) - MOST_STEP_POINTS
        lines.append(f"{work_out(operation, values[index])}. {said}, {right}.")
    boxed = extract_boxed("\n".join(steps)) is not None
    form = int(boxed and len(steps) == len(plan.operations))
    return "\n" + "\n".join([*lines, f"Form {form}. Score: {right + form}"]), right + form


def judged_solutions(
    num: int,
    *,
    seed: int,
    num_steps: tuple[int, int] = (3, 5),
    highest: int = HIGH,
    slip_share: float = 0.5,
) -> Iterator[JudgedSolution]:
    """``num`` solutions by a solver who forgets ``slip_share`` of the carries, carefully judged."""
    rng = random.Random(f"solutions/{seed}")
    for problem in generate_problems("eft", num, seed=seed, num_steps=num_steps, highest=highest):
        plan = Plan.from_key(problem.plan or "")
        steps = careless_steps(plan, slip_share, rng, SHARE_OTHER_SLIPS)
        if rng.random() < SHARE_UNFINISHED:
            steps = steps[:-1]
        text, points = points_judgement(plan, steps)
        yield JudgedSolution(problem, "\n".join(steps), text, points)
