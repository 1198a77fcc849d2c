"""Standard errors and intervals of shares and means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import mpmath


def standard_error(share: float, num: int) -> float:
    """Standard error of a share of ``num`` independent rows (binomial)."""
    return math.sqrt(share * (1 - share) / num)


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and its standard error over the values; None for a single one."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def interval(share: float, num: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share of ``num`` independent rows; sound near 0 and 1 and for few rows."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    return max(0.0, middle - half), min(1.0, middle + half)


@lru_cache
def t_quantile(degrees: int, confidence: float = 0.95) -> float:
    """How many standard errors an interval reaches to each side by Student's t."""

    def outside(t: float) -> Any:
        share = degrees / (degrees + t * t)
        return mpmath.betainc(degrees / 2, 0.5, 0, share, regularized=True) - (1 - confidence)

    return float(mpmath.findroot(outside, (0.1, 1000.0), solver="bisect", tol=1e-12))
