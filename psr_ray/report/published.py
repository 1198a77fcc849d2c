"""Figures of the paper (Zhang et al. 2025, arXiv 2503.03746), shown beside a run's.

They are in ``templates/published.yaml``, as published.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

Row = tuple[float, ...]

BENCHMARKS = ("gsm8k", "math", "gaokao2023en", "olympiadbench", "aime24", "amc23")
SIZES = ("7B", "72B")
TABLES: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parent.parent / "templates" / "published.yaml").read_text()
)
# By size and model, one value per benchmark: accuracy (Table 1), steps of a solution and their length
# (Tables 7 and 8); one value: the step judge (Table 3).
ACCURACY: dict[str, dict[str, Row]] = TABLES["accuracy"]
NUM_STEPS: dict[str, dict[str, Row]] = TABLES["num_steps"]
STEP_LENGTH: dict[str, dict[str, Row]] = TABLES["step_length"]
JUDGE: dict[str, dict[str, float]] = TABLES["judge"]
# By model, of 72B alone: `greedy` and step `search` with its own judge (Tables 5 and 9).
SEARCH: dict[str, dict[str, Row]] = TABLES["search"]


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
