"""EFT for a judge of whole solutions: 0 to 5 additive points (arXiv 2401.10020, in miniature).

The judge works the problem out itself and sets the first and the last result beside its own, each
where its own stands; then it adds three points of form, one each for being in steps, for a boxed
answer and for as many steps as the story has operations::

    Work:
    82-19: 12-9=3, 8-1-1=6, so 63. Step 1: 63 vs 63 right, 1.
    63/7: 6/7=0 r 6, 63/7=9, so 9. Step 2: 8 vs 9 wrong, 1.
    Form 3. Score: 4
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from psr_ray.answers import extract_boxed
from psr_ray.arithmetic import HIGH, Plan, generate_problems
from psr_ray.seed.arithmetic import careless_steps, mark, shown_value, work_out
from psr_ray.seed.pairs import JudgedSolution

# Share of the solutions that stop before their last step, without a box.
SHARE_UNFINISHED = 0.05


def points_judgement(plan: Plan, steps: list[str]) -> tuple[str, int]:
    """The judge's text about a solution in steps, and its points."""
    values = plan.values()
    boxed = extract_boxed("\n".join(steps))
    form = 1 + (boxed is not None) + (len(steps) == len(plan.operations))
    right, lines = 0, []
    for number, operation in enumerate(plan.operations, start=1):
        line, wanted = f"{work_out(operation, values[number - 1])}.", values[number]
        if number in (1, len(plan.operations)):
            last = min(number, len(steps))
            stated = shown_value(steps[last - 1])
            right += stated == wanted
            line += f" {mark(f'Step {last}', stated, wanted)}, {right}."
        lines.append(line)
    points = form + right
    return "\n" + "\n".join([*lines, f"Form {form}. Score: {points}"]), points


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
        steps = careless_steps(plan, slip_share, rng)
        if rng.random() < SHARE_UNFINISHED:
            steps = steps[:-1]
        text, points = points_judgement(plan, steps)
        yield JudgedSolution(problem, "\n".join(steps), text, points)
