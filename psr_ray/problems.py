"""Problems and judged candidates, read from files or drawn from the embedded source."""

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


@dataclass(frozen=True)
class JudgedPair:
    """Two candidate next steps, the judge's text about them, and its verdict (``A`` or ``B``).

    ``work`` and the critiques are the parts of that text that `judge.mode: shared` asks for one by one;
    empty where they are not known."""

    problem: Problem
    steps_so_far: list[str]
    step_a: str
    step_b: str
    judgement: str
    verdict: str
    work: str = ""
    critique_a: str = ""
    critique_b: str = ""


@dataclass(frozen=True)
class JudgedSolution:
    """A complete solution, the judge's text about it, and the 0 to 5 points it ends with."""

    problem: Problem
    solution: str
    judgement: str
    points: int
