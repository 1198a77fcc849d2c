"""JudgedPair: one EFT example, whatever it was made from."""

from __future__ import annotations

from dataclasses import dataclass

from psr_ray.problems import Problem


@dataclass(frozen=True)
class JudgedPair:
    """Two candidate next steps, the judge's text about them, and its verdict (``A`` or ``B``)."""

    problem: Problem
    steps_so_far: list[str]
    step_a: str
    step_b: str
    judgement: str
    verdict: str
