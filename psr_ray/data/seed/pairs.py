"""EFT examples, whatever they were made from: judged step pairs and judged whole solutions."""

from __future__ import annotations

from dataclasses import dataclass

from psr_ray.data.problems import Problem


@dataclass(frozen=True)
class JudgedPair:
    """Two candidate next steps, the judge's text about them, and its verdict (``A`` or ``B``)."""

    problem: Problem
    steps_so_far: list[str]
    step_a: str
    step_b: str
    judgement: str
    verdict: str


@dataclass(frozen=True)
class JudgedSolution:
    """A whole solution, the judge's text about it, and the 0 to 5 points it ends with."""

    problem: Problem
    solution: str
    judgement: str
    points: int
