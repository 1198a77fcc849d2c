"""summary.json: the figures of every model of a run, read from the stages' manifests."""

from __future__ import annotations

import json
from collections.abc import Callable

from psr_ray.measures.health import alarms_of
from psr_ray.measures.provenance import versions
from psr_ray.report.memory import FILE_NAME as MEMORY_FILE
from psr_ray.run_models import evaluated_before, manifests_of
from psr_ray.runs import RunDirectory
from psr_ray.stages import Kind, PlannedStage, planned_stages
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
    "num_refresh_tokens",
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

# Figures of a round in `rounds`, from its search and step preferences, which every round has.
ROUND_FIGURES = (
    "num_pairs",
    "search_accuracy",
    "judge_accuracy_on_policy",
    "tie_share",
    "chosen_right_share",
    "rejected_right_share",
)
# What a round's shares count by, in a mean over rounds.
SHARES_OF: dict[str, Callable[[Json], float]] = {
    "chosen_right_share": lambda m: m.get("num_pairs", 0),
    "rejected_right_share": lambda m: m.get("num_pairs", 0),
    "judged_right_share": lambda m: m.get("num_judged", 0),
    "search_accuracy": lambda m: m.get("num_searches", 0) - m.get("num_errors", 0),
    "tie_share": lambda m: m.get("num_judged_steps", 0),
    "ranking_accuracy": lambda m: m.get("num_one_right", 0),
    "unparsable_share": lambda m: m.get("num_verdicts", 0),
    "asked_share": lambda m: m.get("num_verdicts", 0) / m["asked_share"] if m["asked_share"] else 0,
}


def model_entry(name: str, plan: list[PlannedStage], done: dict[str, Json]) -> Json | None:
    """The figures of one model; None while it is not evaluated."""
    evaluation = done.get(f"evaluate-{name}")
    if not evaluation:
        return None
    number = int(name.removeprefix("M"))
    names_before = evaluated_before(plan, name)
    before = number if number < 2 else int(names_before.removeprefix("M"))
    rounds = range(before, number)  # since the model evaluated before
    search: Json = evaluation.get("search") or {}
    made_by = done.get("sft" if number == 1 else f"train-{number - 1}", {})
    preferences = together([done.get(f"preferences-{k}", {}) for k in rounds])
    learned_from = together([done.get(f"search-{k}", {}) for k in rounds])
    entry: Json = {"name": name}
    for key, value in evaluation.items():
        if key not in (
            "stage",
            "key",
            "search",
            "wall_s",
            "engines",
            "beside_s",
            "held",
            "worked",
            "model_before",
        ):
            entry[key] = value
    if evaluation.get("model_before", names_before) != names_before and entry.get("probes"):
        # measured when others were evaluated
        entry["probes"] = entry["probes"] | {"tau_before": None}
    entry |= {key: search.get(key) for key in SEARCH_FIGURES}
    entry["doubt"] = engines_of(evaluation).get("doubt")
    if entry["unparsable_share"] is None:
        entry["unparsable_share"] = evaluation.get("unparsable_share_fixed")
    entry |= {
        "num_pairs": preferences.get("num_pairs", 0),
        "chosen_right_share": preferences.get("chosen_right_share"),
        "rejected_right_share": preferences.get("rejected_right_share"),
        "num_judged": preferences.get("num_judged"),
        "judged_right_share": preferences.get("judged_right_share"),
        "training": (made_by.get("last") or {}) | (made_by.get("learned") or {}) or None,
        "num_dropped_rows": sum(done.get(f"train-{k}", {}).get("num_dropped", 0) for k in rounds)
        or made_by.get("num_dropped", 0),
        "num_rounds": len(rounds),
        "learned_from": {key: learned_from.get(key) for key in LEARNED_FROM},
        "wall_s": sum(
            float(done[planned.stage.name]["wall_s"])
            for planned in plan
            if planned.stage.name in done and belongs_to(planned, name, rounds)
        ),
    }
    return entry


def belongs_to(planned: PlannedStage, name: str, rounds: range) -> bool:
    """Whether a stage measured a model, or is of the rounds that made it."""
    if planned.kind in ("search", "preferences", "train"):
        return planned.iteration in rounds
    return planned.kind not in ("seed", "data") and planned.model == name


def together(manifests: list[Json]) -> Json:
    """Figures of several rounds: sums of counts, means of shares by what they are shares of, tokens a
    pair of all, the last round's other ones."""
    found = [manifest for manifest in manifests if manifest]
    if len(found) < 2:
        return found[0] if found else {}
    total: Json = {}
    for key in dict.fromkeys(key for manifest in found for key in manifest):
        known = [m for m in found if m.get(key) is not None]
        if key.startswith("num_") and known:
            total[key] = sum(manifest[key] for manifest in known)
        elif key in SHARES_OF and known:
            weights = [SHARES_OF[key](manifest) for manifest in known]
            weights = weights if sum(weights) else [1.0] * len(known)
            values = [
                manifest[key] * weight for manifest, weight in zip(known, weights, strict=True)
            ]
            total[key] = sum(values) / sum(weights)
        else:
            total[key] = found[-1].get(key)
    tokens = sum(total.get(f"num_{kind}_tokens") or 0 for kind in ("sampled", "judge"))
    for key, pairs in (("pair", "num_pairs_found"), ("right_pair", "num_right_pairs")):
        if f"tokens_per_{key}" in total:
            total[f"tokens_per_{key}"] = tokens / total[pairs] if total.get(pairs) else None
    return total


def summarize(run: RunDirectory) -> Json:
    """The summary of complete stages."""
    plan = planned_stages(run)
    done, outdated = manifests_of(plan)
    entries = [model_entry(name, plan, done) for name in run.config.model_names]
    models = [entry for entry in entries if entry is not None]

    def facts_of(kind: Kind) -> list[tuple[PlannedStage, Json]]:
        return [(p, done[p.stage.name]) for p in plan if p.kind == kind and p.stage.name in done]

    searches = {planned.model: facts for planned, facts in facts_of("search")}
    trainings: dict[str, Json] = {
        planned.model: (facts.get("last") or {}) | (facts.get("learned") or {})
        for planned, facts in facts_of("sft") + facts_of("train")
    }
    # not of a run that this one shares
    own = [planned for planned in plan if planned.stage.folder.parent == run.path]
    return {
        "name": run.config.name,
        "seed": run.config.seed,
        "models": models,
        "outdated": outdated,
        "alarms": alarms_of(models, searches, trainings),
        "seed_data": {
            planned.stage.name: {key: facts.get(key) for key in SEED_FIGURES}
            for planned, facts in facts_of("seed")
        },
        "num_failed_input_rows": sum(facts.get("num_failed", 0) for _, facts in facts_of("data")),
        "wall_s": {name: facts["wall_s"] for name, facts in done.items()},
        "engine_starts": sum(
            engines_of(done.get(p.stage.name, {})).get("engine_starts", 0) for p in own
        ),
        "rounds": rounds_of(plan, done, run.config.num_iterations),
        "held": held_of([done.get(p.stage.name, {}) for p in own]),
        "versions": versions(),
        "peak_rss_bytes": (read_json(run.path / MEMORY_FILE) or {}).get("peak_rss_bytes"),
    }


def engines_of(facts: Json) -> Json:
    """What engines a complete stage took; empty where it took none."""
    found: Json = facts.get("engines") or {}
    return found


def rounds_of(plan: list[PlannedStage], done: dict[str, Json], num_iterations: int) -> list[Json]:
    """Where the time of each iteration went, in seconds of wall time, over its complete stages: from
    Mk's evaluation to M(k+1); the last evaluation is of no round.

    ``start``: engines that start or load a model. ``solve``, ``judge`` and ``evaluate``: steps of the
    engines (the mean of all; a search's are divided by its tokens; where evaluation and search are side
    by side, by whose rows end). ``train``: optimizer steps. ``other`` is the rest: what a round costs
    beside its work.
    """
    rounds = []
    for iteration in range(1, num_iterations + 1):
        stages = [
            p
            for p in plan
            if p.stage.name in done
            and (p.model == f"M{iteration}" if p.kind == "evaluate" else p.iteration == iteration)
        ]
        seconds = dict.fromkeys(("start", "solve", "judge", "train", "evaluate", "other"), 0.0)
        for planned in stages:
            facts = done[planned.stage.name]
            engines = engines_of(facts)
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
            of_pairs = [p for p in stages if p.kind in ("search", "preferences")]
            facts = {k: v for p in of_pairs for k, v in done[p.stage.name].items()}
            rounds.append(
                {
                    "iteration": iteration,
                    "seconds": {n: round(s, 2) for n, s in seconds.items()},
                    **{key: facts.get(key) for key in ROUND_FIGURES},
                }
            )
    return rounds


def held_of(found: list[Json]) -> Json:
    """What engines and training workers held over complete stages, by their manifests: seconds times
    GPUs (``GPU``) or, where there were none, cores (``CPU``); and the share in which they worked."""
    sums = {
        key: {
            name: sum(facts.get(key, {}).get(name, 0.0) for facts in found)
            for name in ("GPU", "CPU")
        }
        for key in ("held", "worked")
    }
    name = "GPU" if sums["held"]["GPU"] else "CPU"
    held, work = sums["held"][name], sums["worked"][name]
    return {
        "resource": name,
        "seconds": round(held, 1),
        "busy_share": work / held if held else None,
    }


def write_summary(run: RunDirectory) -> Json:
    """Write summary.json and return it."""
    summary = summarize(run)
    write_text(run.path / "summary.json", json.dumps(summary, indent=1) + "\n")
    return summary
