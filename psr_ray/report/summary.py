"""summary.json: the figures of every model of a run, read from the stages' manifests."""

from __future__ import annotations

import json
from typing import Any

from psr_ray.measures.health import alarms_of
from psr_ray.measures.provenance import versions
from psr_ray.report.memory import FILE_NAME as MEMORY_FILE
from psr_ray.runs import RunDirectory
from psr_ray.stages import PlannedStage, planned_stages
from psr_ray.storage.files import Json, read_json, write_text

SEARCH_FIGURES = (
    "judge_accuracy_on_policy",
    "order_flip_share",
    "order_disagreement",
    "tie_share",
    "letter_tie_share",
    "unparsable_share",
    "verdict_mass",
    "first_share",
    "num_gradable_verdicts",
    "num_compared_pairs",
    "num_judged_steps",
    "longer_win_share",
    "longer_true_share",
    "longer_wins",
    "search_accuracy",
    "distinct_candidates_per_step",
    "rollbacks_per_search",
    "prefix_cache_hit_rate",
)

# Figures of the stages that make seed data; IFT has only rows kept and left out.
SEED_FIGURES = ("trees", "pairs", "kept", "test", "rejected")
# Figures of the search that a model's pairs come from, by the run's method.
LEARNED_FROM = (
    "num_searches",
    "num_sampled_tokens",
    "num_judge_tokens",
    "num_work_tokens",
    "num_critique_tokens",
    "num_compare_tokens",
    "num_cut_texts",
    "num_spent_steps",
    "num_judged_steps",
    "asked_share",
    "num_pairs_found",
    "num_right_pairs",
    "tokens_per_pair",
    "tokens_per_right_pair",
    "ranking_accuracy",
    "num_one_right",
    "tie_share",
    "unparsable_share",
    "search_accuracy",
)


def model_entry(name: str, plan: list[PlannedStage]) -> Json | None:
    """The figures of one model; None while it is not evaluated."""
    done = {planned.stage.name: planned.stage.manifest for planned in plan}
    evaluation = done.get(f"evaluate-{name}")
    if evaluation is None:
        return None
    number = int(name.removeprefix("M"))
    search: Json = evaluation.get("search") or {}
    made_by: Json = done.get("sft" if number == 1 else f"train-{number - 1}") or {}
    preferences: Json = done.get(f"preferences-{number - 1}") or {}
    learned_from: Json = done.get(f"search-{number - 1}") or {}
    entry: Json = {"name": name}
    for key, value in evaluation.items():
        if key not in ("stage", "key", "search", "wall_s", "engines"):
            entry[key] = value
    entry |= {key: search.get(key) for key in SEARCH_FIGURES}
    if entry["unparsable_share"] is None:
        entry["unparsable_share"] = evaluation.get("unparsable_share_fixed")
    entry |= {
        "num_pairs": preferences.get("num_pairs", 0),
        "chosen_right_share": preferences.get("chosen_right_share"),
        "rejected_right_share": preferences.get("rejected_right_share"),
        "training": (made_by.get("last") or {}) | (made_by.get("learned") or {}) or None,
        "num_dropped_rows": made_by.get("num_dropped", 0),
        "learned_from": {key: learned_from.get(key) for key in LEARNED_FROM},
        "wall_s": sum(
            float(planned.stage.manifest["wall_s"])
            for planned in plan
            if planned.stage.manifest and stage_belongs_to(planned, name)
        ),
    }
    return entry


def stage_belongs_to(planned: PlannedStage, name: str) -> bool:
    """Whether a stage made or measured a model: its search and pairs belong to the next one."""
    number = int(name.removeprefix("M"))
    if planned.kind in ("search", "preferences"):
        return planned.iteration == number - 1
    return planned.kind not in ("seed", "data") and planned.model == name


def summarize(run: RunDirectory) -> Json:
    """The summary of complete stages, whatever version of the code completed them."""
    plan = planned_stages(run)
    entries = [model_entry(name, plan) for name in run.config.model_names]
    wall: dict[str, Any] = {
        planned.stage.name: planned.stage.manifest["wall_s"]
        for planned in plan
        if planned.stage.manifest
    }
    models = [entry for entry in entries if entry is not None]
    searches = {
        planned.model: planned.stage.manifest
        for planned in plan
        if planned.kind == "search" and planned.stage.manifest
    }
    data = next(planned.stage.manifest for planned in plan if planned.kind == "data") or {}
    return {
        "name": run.config.name,
        "seed": run.config.seed,
        "models": models,
        "alarms": alarms_of(models, searches),
        "seed_data": {
            planned.stage.name: {key: planned.stage.manifest.get(key) for key in SEED_FIGURES}
            for planned in plan
            if planned.kind == "seed" and planned.stage.manifest
        },
        "num_failed_input_rows": data.get("num_failed", 0),
        "wall_s": wall,
        "engine_starts": sum(
            engines_of(planned).get("engine_starts", 0)
            for planned in plan
            if planned.stage.folder.parent == run.path  # not of another run that this one shares
        ),
        "rounds": rounds_of(plan, run.config.num_iterations),
        "versions": versions(),
        "peak_rss_bytes": (read_json(run.path / MEMORY_FILE) or {}).get("peak_rss_bytes"),
    }


def engines_of(planned: PlannedStage) -> Json:
    """What engines a complete stage took; empty where it took none."""
    found: Json = (planned.stage.manifest or {}).get("engines") or {}
    return found


def rounds_of(plan: list[PlannedStage], num_iterations: int) -> list[Json]:
    """Where the time of each iteration went, in seconds of wall time, over its complete stages.

    ``start``: engines that start or load a model. ``solve``, ``judge`` and ``evaluate``: steps of the
    engines (the mean of all; a search's are divided by its tokens). ``train``: optimizer steps.
    ``other`` is the rest: what a round costs beside its work.
    """
    rounds = []
    for iteration in range(1, num_iterations + 1):
        stages = [p for p in plan if p.iteration == iteration and p.stage.manifest is not None]
        seconds = dict.fromkeys(("start", "solve", "judge", "train", "evaluate", "other"), 0.0)
        for planned in stages:
            facts, engines = planned.stage.manifest or {}, engines_of(planned)
            busy_s = engines.get("busy_s", 0.0) / max(engines.get("num_engines", 1), 1)
            parts = {"start": engines.get("loading_s", 0.0), "train": facts.get("steps_s", 0.0)}
            if planned.kind == "search":
                tokens = facts.get("num_judge_tokens", 0), facts.get("num_sampled_tokens", 0)
                parts["judge"] = busy_s * tokens[0] / max(sum(tokens), 1)
                parts["solve"] = busy_s - parts["judge"]
            else:
                parts["evaluate"] = busy_s
            for name, value in parts.items():
                seconds[name] += value
            seconds["other"] += facts["wall_s"] - sum(parts.values())
        if stages:
            rounds.append(
                {"iteration": iteration, "seconds": {n: round(s, 2) for n, s in seconds.items()}}
            )
    return rounds


def write_summary(run: RunDirectory) -> Json:
    """Write summary.json and return it."""
    summary = summarize(run)
    write_text(run.path / "summary.json", json.dumps(summary, indent=1) + "\n")
    return summary
