"""Figures of the paper (Zhang et al. 2025, arXiv 2503.03746), shown beside a run's.

As published: accuracies in percent, greedy, one seed, no intervals; MATH is the test set of 5,000.
"""

from __future__ import annotations

Row = tuple[float, ...]

BENCHMARKS = ("gsm8k", "math", "gaokao2023en", "olympiadbench", "aime24", "amc23")
SIZES = ("7B", "72B")

# Table 1, process-based self-rewarding, from Qwen2.5-Math; columns as in BENCHMARKS.
ACCURACY: dict[str, dict[str, Row]] = {
    "7B": {
        "M0": (70.1, 51.7, 51.2, 21.3, 0.0, 22.5),
        "M1": (88.5, 69.5, 61.8, 36.0, 6.7, 45.0),
        "M2": (88.8, 69.7, 63.9, 36.3, 16.7, 47.5),
        "M3": (88.5, 72.2, 64.7, 39.9, 10.0, 50.0),
        "M4": (88.8, 73.3, 65.2, 38.7, 13.3, 55.0),
    },
    "72B": {
        "M0": (87.5, 69.7, 55.3, 28.9, 10.0, 40.0),
        "M1": (92.6, 75.6, 67.3, 41.8, 13.3, 45.0),
        "M2": (92.6, 76.4, 67.8, 41.8, 20.0, 57.5),
        "M3": (93.7, 76.4, 67.3, 42.7, 23.3, 52.5),
        "M4": (93.7, 76.6, 68.1, 44.1, 23.3, 57.5),
    },
}

# Table 3: step judge on 500 pairs; M0 with three examples in its prompt.
JUDGE: dict[str, dict[str, float]] = {
    "7B": {"M0": 57.2, "M1": 92.8, "M2": 91.6, "M3": 92.0, "M4": 92.2},
    "72B": {"M0": 73.4, "M1": 95.6, "M2": 95.8, "M3": 95.2, "M4": 95.6},
}

# Tables 7 and 8: steps of a solution, and their length (the paper does not name its unit).
NUM_STEPS: dict[str, dict[str, Row]] = {
    "7B": {
        "M1": (5.91, 9.35, 8.68, 11.75, 7.97, 11.18),
        "M2": (5.24, 8.03, 7.43, 9.54, 7.03, 9.85),
        "M3": (4.50, 6.43, 5.84, 7.36, 7.13, 6.90),
        "M4": (4.09, 5.21, 5.11, 6.14, 6.40, 5.53),
    },
    "72B": {
        "M1": (5.89, 8.41, 8.34, 10.21, 8.23, 9.95),
        "M2": (5.55, 7.64, 7.34, 9.05, 7.37, 9.75),
        "M3": (5.10, 6.30, 5.99, 6.54, 7.07, 6.55),
        "M4": (4.87, 5.54, 5.36, 5.75, 6.33, 6.10),
    },
}
STEP_LENGTH: dict[str, dict[str, Row]] = {
    "7B": {
        "M1": (48.59, 61.61, 69.74, 103.95, 100.43, 76.13),
        "M2": (54.02, 70.04, 85.26, 108.26, 114.27, 115.29),
        "M3": (63.36, 89.68, 99.59, 127.97, 118.67, 109.45),
        "M4": (73.64, 113.14, 118.02, 142.69, 138.18, 127.18),
    },
    "72B": {
        "M1": (47.79, 61.00, 69.72, 95.38, 104.97, 79.36),
        "M2": (51.19, 67.17, 78.00, 101.93, 118.08, 86.88),
        "M3": (57.75, 80.46, 91.21, 122.53, 118.61, 108.95),
        "M4": (62.86, 96.63, 106.28, 134.62, 133.66, 113.60),
    },
}

# Tables 5 and 9: 72B alone, greedy and step search with its own judge (six candidates, T 0.5).
SEARCH: dict[str, dict[str, Row]] = {
    "M1": {
        "greedy": (92.6, 76.0, 66.2, 41.8, 13.3, 45.0),
        "search": (94.5, 79.1, 64.9, 41.6, 16.7, 52.5),
    },
    "M4": {
        "greedy": (93.7, 76.6, 68.1, 44.1, 23.3, 57.5),
        "search": (94.5, 79.3, 68.3, 43.7, 23.3, 65.0),
    },
}


def published_name(benchmark: str) -> str | None:
    """The paper's name for a run's benchmark: ``gsm8k_test`` is its GSM8K, ``math500`` its MATH."""
    same = {"math500": "math", "math500_test": "math"}
    name = benchmark.lower()
    name = same.get(name, name.removesuffix("_test"))
    return name if name in BENCHMARKS else None


def published(values: Row, benchmark: str) -> float | None:
    """The paper's figure for a run's benchmark, from a row of a table; None where it has none."""
    name = published_name(benchmark)
    return None if name is None else values[BENCHMARKS.index(name)]
