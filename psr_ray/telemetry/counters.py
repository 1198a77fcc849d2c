"""Counters of a run in Ray's metrics: in the dashboard, for Prometheus, in grafana/psr-ray.json.

Ray exports them as ``ray_psr_ray_…`` (counters with ``_total``), by run, stage and iteration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psr_ray.measures.searches import SearchFigures
from psr_ray.storage.files import Row

TAGS = ("run", "stage", "iteration")
COUNTERS = {
    "problems": "rows finished: searches, solutions, samples, judgements",
    "failed_rows": "rows that failed",
    "steps": "steps searched",
    "verdicts": "comparisons of two steps that the judge made",
    "flips": "pairs of steps whose two orders name the same position",
    "ties": "judged steps that gave no preference",
    "unparsable": "verdicts that could not be read",
    "pairs": "step preferences found",
    "sampled_tokens": "tokens sampled as steps",
    "judge_tokens": "tokens that the judge wrote",
    "work_tokens": "of these, steps worked out",
    "critique_tokens": "of these, critiques of candidates",
    "compare_tokens": "of these, comparisons",
    "prompt_tokens": "tokens of prompts",
    "cached_tokens": "of these, found in the prefix cache",
}
GAUGES = {
    "loss": "training loss of the last optimizer step",
    "step": "optimizer steps taken",
    "tokens_per_s": "tokens a second of the last optimizer step",
}
LOSSES = ("dpo_loss", "sft_loss", "nll")


def tags_of(stage: Path) -> dict[str, str]:
    """The tags of what is counted in a stage's folder."""
    number = re.search(r"(\d+)$", stage.name)
    iteration = number[1] if number is not None else "0"
    return {"run": stage.parent.name, "stage": stage.name, "iteration": iteration}


class RowMetrics:
    """Counts the rows that an engine worker finishes."""

    def __init__(self, stage: Path) -> None:
        from ray.util.metrics import Counter

        self._counters = {
            name: Counter(f"psr_ray_{name}", description, tag_keys=TAGS)
            for name, description in COUNTERS.items()
        }
        for counter in self._counters.values():
            counter.set_default_tags(tags_of(stage))

    def add(self, task: str, row: Row) -> None:
        """A finished row."""
        for name, value in counts_of(task, row).items():
            if value:  # Ray counts only upwards
                self._counters[name].inc(value)


def counts_of(task: str, row: Row) -> Mapping[str, int]:
    """The increments of the counters by a finished row."""
    counts = {"problems": 1, "failed_rows": int(row.get("error") is not None)}
    if counts["failed_rows"]:
        return counts
    if task != "search":
        return counts | {"sampled_tokens": int(row.get("num_tokens") or 0)}
    figures = SearchFigures()
    figures.add(row)
    verdicts = figures.verdicts
    return counts | {
        "steps": len(row["steps"]),
        "verdicts": verdicts.num_verdicts,
        "flips": verdicts.num_flips,
        "ties": verdicts.num_ties,
        "unparsable": verdicts.num_unparsable,
        "pairs": sum(step["rejected"] is not None for step in row["steps"]),
        "sampled_tokens": row["num_sampled_tokens"],
        "judge_tokens": row["num_judge_tokens"],
        "work_tokens": row["num_work_tokens"],
        "critique_tokens": row["num_critique_tokens"],
        "compare_tokens": row["num_compare_tokens"],
        "prompt_tokens": row["num_prompt_tokens"],
        "cached_tokens": row["num_cached_tokens"],
    }


class StepMetrics:
    """Shows a training's last optimizer step."""

    def __init__(self, stage: Path) -> None:
        from ray.util.metrics import Gauge

        self._gauges = {
            name: Gauge(f"psr_ray_{name}", description, tag_keys=TAGS)
            for name, description in GAUGES.items()
        }
        for gauge in self._gauges.values():
            gauge.set_default_tags(tags_of(stage))

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """One step's figures."""
        loss = next((figures[name] for name in LOSSES if name in figures), None)
        values = {"loss": loss, "step": step, "tokens_per_s": figures.get("tokens_per_s")}
        for name, value in values.items():
            if value is not None:
                self._gauges[name].set(float(value))
