"""Problem: what is solved. Read from JSONL files or drawn from the embedded source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A question with, where known, its answer and a solution in steps.

    ``plan`` is set by the embedded arithmetic alone: it makes every single step gradable.
    """

    id: str
    text: str
    answer: str | None = None
    solution: str | None = None
    plan: str | None = None
