"""Which problems models solved, as matrices over seeds and problems, and intervals of their means.

Two sources of chance are kept separate: seeds (data, fine-tuning, sampling) and held-out problems.
Intervals have both in them (``mean_interval``); all runs are tested on the same problems, so that
differences are paired.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from psr_ray.errors import PsrError
from psr_ray.measures.intervals import t_quantile
from psr_ray.storage.files import Json

Matrix = NDArray[np.float64]  # [seeds, problems]


def mean_interval(values_SP: Matrix) -> tuple[float, float]:
    """95 % interval of the mean of ``values_SP`` [seeds, problems], for other seeds and other problems.

    The mean's variance is what the seeds' means vary by, which holds the chance of single outcomes
    too, and what the problems' means vary by beyond that chance. Each part's half-width is of Student's
    t with the part's own degrees of freedom, and the squares add up. In simulated comparisons that
    covers 94 to 98 % with two to five seeds (tests/test_statistics.py); t over seeds alone down to 83 %
    where problems decide, and one t with Welch and Satterthwaite's degrees of freedom down to 85 % with
    two seeds, whose spread is often estimated as next to nothing. One seed: over problems alone.
    """
    num_seeds, num_problems = values_SP.shape
    mean = float(values_SP.mean())
    of_problems = problem_error(values_SP) ** 2
    half = 0.0
    if num_seeds > 1:
        seeds, problems = values_SP.mean(axis=1, keepdims=True), values_SP.mean(axis=0)
        of_seeds = float(seeds.var(ddof=1)) / num_seeds
        chance = float(((values_SP - seeds - problems + mean) ** 2).mean())
        of_problems -= chance / ((num_seeds - 1) * (num_problems - 1))
        half = t_quantile(num_seeds - 1) ** 2 * of_seeds
    half = math.sqrt(half + t_quantile(num_problems - 1) ** 2 * max(of_problems, 0.0))
    return mean - half, mean + half


def problem_error(values_SP: Matrix) -> float:
    """Standard error of the mean over problems, with the seeds held fixed."""
    per_problem = values_SP.mean(axis=0)
    return float(per_problem.std(ddof=1) / math.sqrt(len(per_problem)))


def matrix(strings: Sequence[str], records: Sequence[str], what: str) -> Matrix:
    """Strings of 0 and 1, one a seed, as [seeds, problems]; ``records`` names where each is from."""
    usual = Counter(map(len, strings)).most_common(1)[0][0]
    for string, record in zip(strings, records, strict=True):
        if len(string) != usual:
            raise PsrError(
                f"{record}: {what}: outcomes of {len(string)} problems where other records have "
                f"{usual}: delete that record and run psr-ray compare again"
            )
    return np.array([[float(c == "1") for c in string] for string in strings])


def correct(records: Sequence[Json], model: str, test_set: str) -> Matrix:
    """Which problems a model solved [seeds, problems]."""
    return outcomes([(record, model) for record in records], test_set)


def outcomes(tested: Sequence[tuple[Json, str]], test_set: str) -> Matrix:
    """Which problems the models of some records solved [models, problems]."""
    strings = [record["correct"][model][test_set] for record, model in tested]
    names = names_in([record for record, _ in tested])
    labels = [f"{name}, {model}" for name, (_, model) in zip(names, tested, strict=True)]
    return matrix(strings, labels, test_set)


def gain_of(
    models: Sequence[tuple[Json, str]], others: Sequence[tuple[Json, str]], test_set: str
) -> Matrix:
    """Problems that models solved minus those that others solved, seed by seed [seeds, problems]."""
    both = outcomes([*models, *others], test_set)  # together: their problems must be the same
    return both[: len(models)] - both[len(models) :]


def names_in(records: Sequence[Json]) -> list[str]:
    """Names of the records: ``process-seed-0``."""
    return [f"{record['method']}-seed-{record['seed']}" for record in records]
