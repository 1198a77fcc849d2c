"""The text that the embedded base model M0 was pretrained on: arithmetic in several forms.

None of it is what M1 does: no ``Step n:`` solution, no boxed answer, no judge's verdict. It holds
written sums, bare equations (some as numbered lists), marked equations, and stories with their sums,
their equations or their short form. One document in six may have values beyond two digits; no later data
has.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from psr_ray.embedded.arithmetic import HIGH, LOW, Plan, draw_operation, draw_plan, split_of, tell
from psr_ray.embedded.seed import mark, slip, work_out

# The splits whose numbers M0 may see in stories; the others stay unseen until they are used.
SEEN_SPLITS = ("ift", "eft")
HIGHEST = 199
LIST_WORDS = ("No", "Line", "Part", "Item", "Task", "Sum")


@dataclass(frozen=True)
class Document:
    """``text`` is learned; ``given`` comes before it and carries no loss (a story's words)."""

    given: str
    text: str


def draw_highest(rng: random.Random) -> int:
    """The largest value of a document."""
    return HIGHEST if rng.random() < 1 / 6 else HIGH


def maybe_numbered(lines: list[str], rng: random.Random) -> list[str]:
    """The lines, half of the time as a list: ``Line 1: …``, ``Line 2: …``."""
    if rng.random() < 0.5:
        return lines
    word = rng.choice(LIST_WORDS)
    return [f"{word} {number}: {line}" for number, line in enumerate(lines, start=1)]


def written_sums(rng: random.Random) -> Document:
    """Sums worked out digit by digit."""
    lines, highest = [], draw_highest(rng)
    for _ in range(rng.randint(2, 4)):
        value = rng.randint(LOW, highest)
        lines.append(f"{work_out(draw_operation(value, rng, highest), value)}.")
    return Document("", "\n".join(lines))


def bare_equations(rng: random.Random) -> Document:
    """Equations with their results only, half of the time as a numbered list."""
    lines, highest = [], draw_highest(rng)
    for _ in range(rng.randint(4, 9)):
        value = rng.randint(LOW, highest)
        lines.append(draw_operation(value, rng, highest).equation(value))
    return Document("", "\n".join(maybe_numbered(lines, rng)))


def marked_equations(rng: random.Random) -> Document:
    """Two pupils' results for one sum, the sum worked out, each result marked."""
    highest = draw_highest(rng)
    value = rng.randint(LOW, highest)
    operation = draw_operation(value, rng, highest)
    result = operation.apply(value)
    shown = [result if rng.random() < 0.5 else slip(operation, value, rng) for _ in range(2)]
    first, second = rng.sample("ABCDEF", 2)
    given = "".join(
        f"{name}: {operation.equation(value, stated)}\n"
        for name, stated in zip((first, second), shown, strict=True)
    )
    marks = " ".join(
        f"{name}: {mark(stated, result)}."
        for name, stated in zip((first, second), shown, strict=True)
    )
    return Document(given, f"{work_out(operation, value)}. {marks}")


def seen_plan(rng: random.Random) -> Plan:
    """A plan of a split that M0 may see."""
    while True:
        plan = draw_plan(rng, (2, 7), draw_highest(rng))
        if split_of(plan) in SEEN_SPLITS:
            return plan


def story_with_sums(rng: random.Random) -> Document:
    """A story and all its sums worked out."""
    plan = seen_plan(rng)
    lines = [
        work_out(operation, value)
        for operation, value in zip(plan.operations, plan.values(), strict=False)
    ]
    end = f".\nResult {plan.values()[-1]}."
    return Document(tell(plan, rng) + "\n", "Work:\n" + ".\n".join(lines) + end)


def story_with_equations(rng: random.Random) -> Document:
    """A story and its equations, each in one go."""
    plan = seen_plan(rng)
    lines = [
        operation.equation(value)
        for operation, value in zip(plan.operations, plan.values(), strict=False)
    ]
    end = f"\nResult {plan.values()[-1]}."
    return Document(tell(plan, rng) + "\n", "Sums:\n" + "\n".join(maybe_numbered(lines, rng)) + end)


def story_in_short(rng: random.Random) -> Document:
    """A story and its operations, without results."""
    plan = seen_plan(rng)
    return Document(tell(plan, rng) + "\n", f"In short: {plan.key()}.")


KINDS = {
    written_sums: 2,
    bare_equations: 2,
    marked_equations: 3,
    story_with_sums: 4,
    story_with_equations: 5,
    story_in_short: 1,
}


def documents(seed: int) -> Iterator[Document]:
    """An endless stream of documents, the same for the same seed."""
    rng = random.Random(f"corpus/{seed}")
    while True:
        [kind] = rng.choices(list(KINDS), weights=list(KINDS.values()))
        yield kind(rng)
