"""The embedded problems: seeded multi-step arithmetic told in words, graded exactly.

A problem is a *plan* (a start value and three to five operations on it) told by a *story*
(names, things, one sentence for an operation). Every value of a plan is an integer of two digits,
so a step of a solution is one line such as ``Step 2: 82-19=63``.

Splits are cut by a hash of the plan, not of the text: two problems of different splits differ in
their numbers or operations, whatever their wording. ``check_disjoint`` verifies it on real rows.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from psr_ray.errors import PsrError
from psr_ray.problems import Problem

Split = Literal["ift", "eft", "train", "dev", "judge", "heldout"]

# Shares of the plan space, in percent. `ift` and `eft` feed the first fine-tuning, `train` the
# iterations, `dev` the tuning of settings, `judge` the fixed judge set, `heldout` the final figures.
SPLIT_PERCENT: dict[Split, int] = {
    "ift": 20,
    "eft": 25,
    "train": 25,
    "dev": 10,
    "judge": 5,
    "heldout": 15,
}

SYMBOLS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}
LOW, HIGH = 10, 99


@dataclass(frozen=True)
class Operation:
    """One change of the running value: ``value SYMBOL operand``."""

    kind: str
    operand: int

    def apply(self, value: int) -> int | None:
        """The new value, or None where a division leaves a remainder."""
        if self.kind == "add":
            return value + self.operand
        if self.kind == "subtract":
            return value - self.operand
        if self.kind == "multiply":
            return value * self.operand
        quotient, remainder = divmod(value, self.operand)
        return None if remainder else quotient

    def equation(self, value: int, result: int | None = None) -> str:
        """``value SYMBOL operand=result`` without spaces; the true result unless one is given."""
        shown = self.apply(value) if result is None else result
        return f"{value}{SYMBOLS[self.kind]}{self.operand}={shown}"


@dataclass(frozen=True)
class Plan:
    """The computation of a problem: ``values()[i + 1] = operations[i].apply(values()[i])``."""

    start: int
    operations: tuple[Operation, ...]

    def values(self) -> list[int]:
        values = [self.start]
        for operation in self.operations:
            result = operation.apply(values[-1])
            assert result is not None, "plans only hold divisions without remainder"
            values.append(result)
        return values

    def key(self) -> str:
        """The plan as text, the same for every wording."""
        return f"{self.start}" + "".join(f"{SYMBOLS[o.kind]}{o.operand}" for o in self.operations)

    @staticmethod
    def from_key(key: str) -> Plan:
        """The plan that ``key()`` names."""
        kinds = {symbol: kind for kind, symbol in SYMBOLS.items()}
        start = re.match(r"\d+", key)
        if start is None:
            raise PsrError(f"{key!r} is no plan of an arithmetic problem")
        operations = re.findall(r"([-+*/])(\d+)", key[start.end() :])
        return Plan(int(start[0]), tuple(Operation(kinds[s], int(n)) for s, n in operations))


def split_of(plan: Plan) -> Split:
    """The split a plan belongs to, from a hash of its key."""
    digest = hashlib.sha256(plan.key().encode()).digest()
    position = int.from_bytes(digest[:8], "big") % 100
    for name, percent in SPLIT_PERCENT.items():
        if position < percent:
            return name
        position -= percent
    raise AssertionError("SPLIT_PERCENT does not add up to 100")


NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "Jill", "Kim", "Leo"]
THINGS = ["shells", "coins", "books", "cards", "stamps", "pears", "beads", "nuts", "pens", "eggs"]
PLACES = ["box", "shop", "garden", "cellar", "van", "tent"]

OPENINGS = [
    "{name} has {n} {thing}.",
    "There are {n} {thing} in the {place} of {name}.",
    "{name} starts with {n} {thing}.",
    "In the {place}, {name} counts {n} {thing}.",
    "{n} {thing} belong to {name}.",
]
SENTENCES: dict[str, list[str]] = {
    "add": [
        "{name} finds {n} more.",
        "{other} gives {name} {n} {thing}.",
        "Then {n} more {thing} arrive.",
        "{name} buys {n} {thing}.",
        "{n} are added.",
        "A friend brings {n} more.",
    ],
    "subtract": [
        "{name} loses {n}.",
        "{name} gives {n} to {other}.",
        "Then {n} {thing} are sold.",
        "{n} of them break.",
        "{other} takes {n} away.",
        "{name} uses {n} of them.",
    ],
    "multiply": [
        "Then the number grows {n} times as large.",
        "{name} now gets {n} times as many.",
        "A trick makes it {n} times the number.",
        "The {thing} become {n} times as many.",
    ],
    "divide": [
        "{name} shares them among {n} friends and keeps one share.",
        "They are put into {n} equal bags, and {name} keeps one bag.",
        "{name} splits them into {n} equal parts and keeps one.",
        "Only one of {n} equal heaps of {thing} is kept.",
    ],
}
QUESTIONS = [
    "How many {thing} are there now?",
    "How many {thing} does {name} have in the end?",
    "How many are left?",
    "What is the number of {thing} now?",
]


def tell(plan: Plan, rng: random.Random) -> str:
    """A story for a plan: opening, one sentence for an operation, question."""
    name, other = rng.sample(NAMES, 2)
    words = {
        "name": name,
        "other": other,
        "thing": rng.choice(THINGS),
        "place": rng.choice(PLACES),
    }
    parts = [rng.choice(OPENINGS).format(n=plan.start, **words)]
    for operation in plan.operations:
        parts.append(rng.choice(SENTENCES[operation.kind]).format(n=operation.operand, **words))
    parts.append(rng.choice(QUESTIONS).format(**words))
    return " ".join(parts)


def draw_operation(value: int, rng: random.Random, highest: int = HIGH) -> Operation:
    """A random operation that keeps the value between ``LOW`` and ``highest``."""
    while True:
        kind = rng.choices(list(SYMBOLS), weights=[4, 4, 2, 2])[0]
        operand = rng.randint(LOW, HIGH) if kind in ("add", "subtract") else rng.randint(2, 9)
        operation = Operation(kind, operand)
        result = operation.apply(value)
        if result is not None and LOW <= result <= highest:
            return operation


def draw_plan(rng: random.Random, num_steps: tuple[int, int], highest: int = HIGH) -> Plan:
    """A random plan with ``num_steps[0]`` to ``num_steps[1]`` operations, no value above
    ``highest``."""
    start = value = rng.randint(LOW, highest)
    operations: list[Operation] = []
    for _ in range(rng.randint(*num_steps)):
        operations.append(draw_operation(value, rng, highest))
        result = operations[-1].apply(value)
        assert result is not None
        value = result
    return Plan(start, tuple(operations))


def step_lines(plan: Plan) -> list[str]:
    """The solution of a plan as steps; the last one carries the boxed answer."""
    values = plan.values()
    lines = [
        f"Step {number}: {operation.equation(values[number - 1])}"
        for number, operation in enumerate(plan.operations, start=1)
    ]
    lines[-1] += f" \\boxed{{{values[-1]}}}"
    return lines


def generate_problems(
    split: Split,
    num: int,
    *,
    seed: int,
    num_steps: tuple[int, int] = (3, 5),
    highest: int = HIGH,
) -> Iterator[Problem]:
    """``num`` problems of one split with pairwise different plans; the same for the same seed."""
    rng = random.Random(f"{split}/{seed}")
    seen: set[str] = set()
    while len(seen) < num:
        plan = draw_plan(rng, num_steps, highest)
        if split_of(plan) != split or plan.key() in seen:
            continue
        seen.add(plan.key())
        yield Problem(
            id=f"arithmetic/{split}/{plan.key()}",
            text=tell(plan, rng),
            answer=str(plan.values()[-1]),
            solution="\n".join(step_lines(plan)),
            plan=plan.key(),
        )


def check_disjoint(groups: dict[str, Iterable[Problem]]) -> None:
    """Raise ``PsrError`` where two groups share a plan; names the groups and the plan."""
    owner: dict[str, str] = {}
    for name, problems in groups.items():
        for problem in problems:
            first = owner.setdefault(problem.plan or problem.text, name)
            if first != name:
                raise PsrError(
                    f"problem {problem.id} is in both {first!r} and {name!r}: the splits overlap; "
                    "draw them from different splits or remove the shared problems"
                )


EQUATION = re.compile(r"Step (\d+): (\d+)([-+*/])(\d+)=(\d+)( \\boxed\{(\d+)\})?")


def stated_value(step: str) -> int | None:
    """The result that a step states, or None where it is no equation."""
    match = EQUATION.fullmatch(step.strip())
    return int(match[5]) if match else None


def step_is_right(plan: Plan, steps_so_far: list[str], step: str) -> bool:
    """Whether ``step`` is the right next step after ``steps_so_far``.

    Right means: the operation of the story that is due, applied to the value the last step *states*
    (even where that value is wrong), with the true result; boxed exactly if it is the last operation.
    """
    match = EQUATION.fullmatch(step.strip())
    number = len(steps_so_far) + 1
    if match is None or number > len(plan.operations) or int(match[1]) != number:
        return False
    value = stated_value(steps_so_far[-1]) if steps_so_far else plan.start
    if value is None:
        return False
    operation = plan.operations[number - 1]
    equation = f"{match[2]}{match[3]}{match[4]}={match[5]}"
    is_last = number == len(plan.operations)
    boxed = match[7] == match[5] if is_last else match[6] is None
    return equation == operation.equation(value) and boxed


def all_steps_right(key: str, steps: list[str]) -> bool:
    """Whether a solution of the plan with this key is right step by step: two slips may cancel out."""
    return first_wrong_step(Plan.from_key(key), steps) is None


def first_wrong_step(plan: Plan, steps: list[str]) -> int | None:
    """The place (from 0) of the first step that is wrong, or missing; None where all are right."""
    for place, step in enumerate(steps):
        if not step_is_right(plan, steps[:place], step):
            return place
    return None if len(steps) == len(plan.operations) else len(steps)
