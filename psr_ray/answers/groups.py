"""Which answers of one problem are the same one in another spelling."""

from __future__ import annotations

import time
from functools import lru_cache

from psr_ray.answers.equality import is_equal
from psr_ray.answers.normal import normal

# Seconds of one comparison of two answers, after which the others of a problem are not tried.
SLOW_S = 2.0


@lru_cache(maxsize=2**14)
def groups_of(answers: tuple[str | None, ...]) -> tuple[int | None, ...]:
    """Equal answers in different spellings are one group: ``1/2``, ``0.5``.

    An answer is compared with the first spelling of each group, either of them as the gold one:
    ``is_equal`` asks less of the other. The groups of the first k answers are the first k of all groups,
    so that a row is grouped once for all k; a spelling seen before costs no comparison. After one of
    ``SLOW_S`` seconds (``9^{9^{9^9}}``) the others are compared as texts.
    """
    slow = False

    def same(one: str, other: str) -> bool:
        nonlocal slow
        if slow:
            return normal(one) == normal(other)
        started = time.monotonic()
        equal = is_equal(one, other)
        slow = time.monotonic() - started > SLOW_S
        return equal

    group_of: dict[str, int] = {}
    first_spellings: list[str] = []
    for answer in answers:
        if answer is None or answer in group_of:
            continue
        equal = (
            number
            for number, first in enumerate(first_spellings)
            if same(first, answer) or same(answer, first)
        )
        group_of[answer] = next(equal, len(first_spellings))
        if group_of[answer] == len(first_spellings):
            first_spellings.append(answer)
    return tuple(None if answer is None else group_of[answer] for answer in answers)
