"""Seed data of the embedded problems: IFT (solved in steps) and EFT (judged step pairs).

The judge's text works the step out in small sums it can hardly get wrong, sets each candidate's
result beside its own, and only then gives the verdict::

     82-19: 12-9=3, 8-1-1=6, so 63. A: 63 vs 63 right. B: 73 vs 63 wrong. [[A]]
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from psr_ray.embedded.arithmetic import (
    HIGH,
    LOW,
    Operation,
    Plan,
    Split,
    draw_operation,
    generate_problems,
    stated_value,
    step_lines,
)
from psr_ray.problems import JudgedPair, Problem

BOX = " \\boxed{"
# Share of the EFT pairs whose steps are both wrong: they teach the judge that such a pair is a draw,
# and that one step's mark tells nothing about the other's.
SHARE_ALIKE = 0.2
# Of the wrong steps: share with another operand than the story's; of wrong last steps, share that box
# another number than their result.
SHARE_OTHER_OPERATION, SHARE_OTHER_BOX = 0.15, 0.5


def work_out(operation: Operation, value: int) -> str:
    """The operation done in writing, digit by digit; ends with ``so RESULT``."""
    result = operation.apply(value)
    tens, units = divmod(value, 10)
    head = operation.equation(value).split("=")[0] + ": "
    if operation.kind == "multiply":
        low = units * operation.operand
        high = tens * operation.operand + low // 10
        return (
            f"{head}{units}*{operation.operand}={low}, "
            f"{tens}*{operation.operand}+{low // 10}={high}, so {result}"
        )
    if operation.kind == "divide":
        quotient, rest = divmod(tens, operation.operand)
        low = rest * 10 + units
        return (
            f"{head}{tens}/{operation.operand}={quotient} r {rest}, "
            f"{low}/{operation.operand}={low // operation.operand}, so {result}"
        )
    other_tens, other_units = divmod(operation.operand, 10)
    if operation.kind == "add":
        low = units + other_units
        carry = "+1" if low > 9 else ""
        high = tens + other_tens + (low > 9)
        return f"{head}{units}+{other_units}={low}, {tens}+{other_tens}{carry}={high}, so {result}"
    borrow = units < other_units
    low = units + 10 * borrow
    high = tens - other_tens - borrow
    return (
        f"{head}{low}-{other_units}={low - other_units}, "
        f"{tens}-{other_tens}{'-1' if borrow else ''}={high}, so {result}"
    )


def judged_parts(
    operation: Operation, value: int, step_a: str, step_b: str
) -> tuple[str, str, str, str]:
    """The step worked out, a critique of each candidate, and the verdict: ``B`` if B's step is right,
    else ``A``.

    When both steps are as good, the two orders so name the same position and cancel out: the search
    sees a tie. docs/negative-results.md tells why the verdict is this rule.
    """
    result = operation.apply(value)
    shown = {"A": shown_value(step_a), "B": shown_value(step_b)}
    critiques = [f" {mark(value, result)}." for value in shown.values()]
    verdict = "B" if shown["B"] == result else "A"
    return f" {work_out(operation, value)}.", critiques[0], critiques[1], verdict


def mark(stated: int | None, wanted: int | None) -> str:
    """A stated result set beside the right one."""
    return f"{stated} vs {wanted} {'right' if stated == wanted else 'wrong'}"


def shown_value(step: str) -> int | None:
    """The value a judge holds against its own: the boxed one, if the step has a box."""
    _, box, end = step.partition(BOX)
    return int(end.rstrip("}")) if box else stated_value(step)


def forgets_carry(operation: Operation, value: int) -> int | None:
    """The result without its carry or borrow; None where the operation has neither."""
    result = operation.apply(value)
    assert result is not None
    units, other = value % 10, operation.operand % 10
    if operation.kind == "add" and units + other > 9:
        return result - 10
    if operation.kind == "subtract" and units < other:
        return result + 10
    if operation.kind == "multiply" and units * operation.operand > 9:
        return result - units * operation.operand // 10 * 10
    return None


def stays_in_range(operations: Sequence[Operation], value: int) -> bool:
    """Whether a plan's remaining operations keep this value a two-digit integer."""
    for operation in operations:
        result = operation.apply(value)
        if result is None or not LOW <= result <= HIGH:
            return False
        value = result
    return LOW <= value <= HIGH


def careless_steps(
    plan: Plan, slip_share: float, rng: random.Random, other_slips: float = 0.0
) -> list[str]:
    """A solution by a solver who forgets this share of the carries and borrows, makes other slips in
    ``other_slips`` of the steps, and continues from the wrong value."""
    lines, value = [], plan.start
    for index, operation in enumerate(plan.operations):
        result = operation.apply(value)
        wrong = forgets_carry(operation, value)
        rest = plan.operations[index + 1 :]
        if wrong is not None and rng.random() >= slip_share:
            wrong = None
        if wrong is None and rng.random() < other_slips:
            wrong = slip(operation, value, rng)
        if wrong is not None and stays_in_range(rest, wrong):
            result = wrong
        assert result is not None
        lines.append(finish(plan, index, operation.equation(value, result)))
        value = result
    return lines


def ift_problems(
    num: int,
    *,
    seed: int,
    num_steps: tuple[int, int] = (3, 5),
    highest: int = HIGH,
    slip_share: float = 0.0,
) -> Iterator[Problem]:
    """Solved problems for the first fine-tuning, written by a solver who may be careless."""
    rng = random.Random(f"careless/{seed}")
    for problem in generate_problems("ift", num, seed=seed, num_steps=num_steps, highest=highest):
        steps = careless_steps(Plan.from_key(problem.plan or ""), slip_share, rng)
        yield replace(problem, solution="\n".join(steps))


def slip(operation: Operation, value: int, rng: random.Random) -> int:
    """A wrong result of the kind a careless solver writes: a lost carry, a digit off by one."""
    result = operation.apply(value)
    assert result is not None
    while True:
        wrong = result + rng.choice([10, -10, 10, -10, 1, -1, 2, -2, 20, -20, 9, -9, 11, -11])
        if rng.random() < 0.15:
            wrong = rng.randint(LOW, HIGH)
        if wrong != result and 0 <= wrong <= max(HIGH, result):
            return wrong


def wrong_step(plan: Plan, index: int, value: int, rng: random.Random) -> str:
    """A wrong version of step ``index + 1``: a slip, a box unlike the result, another operand."""
    operation = plan.operations[index]
    if index == len(plan.operations) - 1 and rng.random() < SHARE_OTHER_BOX:
        right = finish(plan, index, operation.equation(value))
        return f"{right.split(BOX)[0]}{BOX}{slip(operation, value, rng)}}}"
    if rng.random() >= SHARE_OTHER_OPERATION:
        equation = operation.equation(value, slip(operation, value, rng))
    else:
        other = draw_operation(value, rng)
        while other.apply(value) == operation.apply(value):
            other = draw_operation(value, rng)
        equation = other.equation(value)
    return finish(plan, index, equation)


def finish(plan: Plan, index: int, equation: str) -> str:
    """The equation as a step line, boxed where it is the plan's last."""
    boxed = f"{BOX}{equation.split('=')[1]}}}" if index == len(plan.operations) - 1 else ""
    return f"Step {index + 1}: {equation}{boxed}"


def judged_pair(problem: Problem, rng: random.Random, *, share_alike: float) -> JudgedPair:
    """One judged pair at a random step; ``share_alike`` of the pairs are wrong on both sides."""
    plan = Plan.from_key(problem.plan or "")
    index = rng.randrange(len(plan.operations))
    so_far = step_lines(plan)[:index]
    value = plan.values()[index]
    operation = plan.operations[index]
    steps = [finish(plan, index, operation.equation(value)), wrong_step(plan, index, value, rng)]
    if rng.random() < share_alike:
        while steps[0] in (steps[1], finish(plan, index, operation.equation(value))):
            steps[0] = wrong_step(plan, index, value, rng)
    rng.shuffle(steps)
    work, a, b, verdict = judged_parts(operation, value, steps[0], steps[1])
    text = f"{work} A:{a} B:{b} [[{verdict}]]"
    return JudgedPair(problem, so_far, steps[0], steps[1], text, verdict, work, a, b)


def judged_pairs(
    split: Split,
    num: int,
    *,
    seed: int,
    num_steps: tuple[int, int] = (3, 5),
    highest: int = HIGH,
    share_alike: float = SHARE_ALIKE,
) -> Iterator[JudgedPair]:
    """``num`` judged pairs, each from a problem of its own."""
    rng = random.Random(f"judged/{split}/{seed}")
    for problem in generate_problems(split, num, seed=seed, num_steps=num_steps, highest=highest):
        yield judged_pair(problem, rng, share_alike=share_alike)
