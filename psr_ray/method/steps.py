"""Steps: where one ends in a stream of tokens, and how a whole solution splits into them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

STEP_HEADER = re.compile(r"^Step (\d+):", re.MULTILINE)


@dataclass(frozen=True)
class Candidate:
    """One distinct next step: its ids, its text, how often it was sampled, whether it ends all."""

    token_ids: tuple[int, ...]
    text: str
    count: int
    ended: bool


def trim_to_step(
    token_ids: Sequence[int], stop: str, decode: Callable[[Sequence[int]], str]
) -> tuple[int, ...]:
    """The ids up to the end of the first step; all of them where ``stop`` does not occur.

    Leading newlines of ``stop`` belong to the step that they end. A token that crosses the end
    goes with the next step, so that a step never holds a part of the next one's text.
    """
    text = decode(token_ids)
    found = text.find(stop)
    if found < 0:
        return tuple(token_ids)
    end = found + len(stop) - len(stop.lstrip("\n"))
    low, high = 0, len(token_ids)
    while low < high:  # the longest prefix whose text does not pass the end
        middle = (low + high + 1) // 2
        if len(decode(token_ids[:middle])) <= end:
            low = middle
        else:
            high = middle - 1
    return tuple(token_ids[:low])


def split_steps(solution: str) -> list[str]:
    """The steps of a solution, each with its ``Step n:`` header; text before the first is dropped.

    Empty where no step header occurs.
    """
    starts = [match.start() for match in STEP_HEADER.finditer(solution)]
    ends = [*starts, len(solution)][1:]
    return [solution[a:b].strip() for a, b in zip(starts, ends, strict=True)]
