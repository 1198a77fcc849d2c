"""The stored record of one finished run: a small JSON file from which all figures can be remade."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from psr_ray.compare.config import PlannedRun
from psr_ray.data.rows import output_folder
from psr_ray.measures.evaluation import correct_characters
from psr_ray.runs import RunDirectory, fingerprint
from psr_ray.stages import PlannedStage, planned_stages, settings_that_count
from psr_ray.storage.files import Json, read_json, write_text
from psr_ray.storage.shards import finished_ids

# Sets of problems that all models solve, by what their rows call them.
TEST_SETS = {"heldout": None, "hard": "hard"}
# What a search generates tokens for.
TOKENS = ("num_sampled_tokens", "num_judge_tokens", "num_refresh_tokens")


def run_key(run: PlannedRun) -> str:
    """Key of all that makes a run's last model and its figures."""
    return planned_stages(RunDirectory(run.config))[-1].stage.key


def stored_record(run: PlannedRun) -> Json | None:
    """The record of a run if it is of these settings, else None."""
    record = read_json(run.record)
    return record if record is not None and record["key"] == run_key(run) else None


def write_record(run: PlannedRun, summary: Json) -> None:
    """Store a finished run's figures."""
    plan = planned_stages(RunDirectory(run.config))
    evaluations = [
        planned for planned in plan if planned.kind == "evaluate" and planned.model != "M0"
    ]
    base = run.config.model.base
    identity = fingerprint(base)
    record: dict[str, Any] = {
        "method": run.method,
        "seed": run.seed,
        "key": run_key(run),
        "base": base if identity == base else Path(base).name,  # a Hub id, or a folder
        "base_fingerprint": identity,
        "made_with": settings_that_count(run.config),
        "settings": run.config.model_dump(mode="json", include={"method", "dpo"}),
        "models": summary["models"],
        "alarms": summary["alarms"],
        "correct": {planned.model: outcomes(planned) for planned in evaluations},
        "problems": {
            name: digest(finished_ids(output_folder(evaluations[0].stage.folder, "solve", dataset)))
            for name, dataset in TEST_SETS.items()
        },
        "cost": cost(plan),
        "wall_s": summary["wall_s"],
        "versions": summary["versions"],
    }
    write_text(run.record, json.dumps(record, indent=1) + "\n")


def outcomes(planned: PlannedStage) -> dict[str, str]:
    """Which problems of each test set a model solved."""
    return {
        name: correct_characters(planned.stage.folder, dataset)
        for name, dataset in TEST_SETS.items()
    }


def digest(ids: set[str]) -> str:
    """A short name for a set of problems: runs with the same one can be paired."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:12]


def cost(plan: list[PlannedStage]) -> dict[str, float]:
    """Cost of a run's searches and trainings: tokens generated (sampled, judged, for `refresh`), pairs
    trained on, seconds. Stages taken from another run count as if done here."""
    totals = dict.fromkeys((*TOKENS, "num_pairs", "wall_s"), 0.0)
    for planned in plan:
        manifest = planned.stage.manifest
        if manifest is None or planned.iteration == 0 or planned.kind == "evaluate":
            continue
        for name in totals:
            totals[name] += manifest.get(name) or 0
        totals["wall_s"] += manifest.get("beside_s") or 0  # of a search beside an evaluation
    return totals
