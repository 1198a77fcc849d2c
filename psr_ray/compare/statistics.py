"""Means, standard errors and intervals of a comparison, from the stored records.

The standard error of a mean over seeds is sd / sqrt(number of seeds).
"""

from __future__ import annotations

from collections.abc import Sequence

from psr_ray.compare.config import CompareConfig
from psr_ray.compare.outcomes import (
    correct,
    gain_of,
    matrix,
    mean_interval,
    names_in,
    problem_error,
)
from psr_ray.compare.record import TOKENS
from psr_ray.compare.wording import look_up
from psr_ray.errors import PsrError
from psr_ray.measures.intervals import mean_and_error, t_quantile
from psr_ray.storage.files import Json


def aggregate(comparison: CompareConfig, records: Sequence[Json]) -> Json:
    """The comparison's figures (``results/NAME.json``)."""
    by_method: dict[str, list[Json]] = {name: [] for name in comparison.methods}
    for record in records:
        by_method[record["method"]].append(record)
    done = {name: rows for name, rows in by_method.items() if rows}
    if not done:
        raise PsrError(f"{comparison.records}: no records; psr-ray compare makes them")
    check_comparable(records)
    reference = comparison.reference
    result: Json = {
        "name": comparison.name,
        "reference": reference,
        "records": f"{comparison.records.as_posix()}/",
        "planned_seeds": list(comparison.seeds),
        "expected": [expectation.model_dump() for expectation in comparison.expected],
        "settings": {
            "base": comparison.base,
            "all runs": comparison.overrides,
            "methods": comparison.methods,
        },
        "base": next((record["base"] for record in records if "base" in record), None),
        "methods": {name: method_figures(rows, comparison) for name, rows in done.items()},
        "versions": {name: rows[0]["versions"] for name, rows in done.items()}[next(iter(done))],
    }
    result["logp_change_of"] = measured_pairs(records)
    if reference in done:
        result["test_time"] = test_time_figures(done[reference])
    result["differences"] = {}
    for key, (one, other) in comparison.differences_by_key.items():
        if one in done and other in done:
            found = difference_figures(key, done[one], done[other])
            result |= found
            if found:
                result["differences"][key] = [one, other]
    return result


def check_comparable(records: Sequence[Json]) -> None:
    """All records must be of the same M0 and held-out problems, else nothing can be paired."""
    bases = {record["base_fingerprint"] for record in records if "base_fingerprint" in record}
    if len(bases) > 1:
        raise PsrError(
            "the records are of different base models: give each comparison a `results_dir` or `name` "
            "of its own"
        )
    digests = {str(record["problems"]) for record in records}
    if len(digests) > 1:
        raise PsrError(
            "the records are of different held-out problems: give data.heldout (and data.hard) a "
            "`seed` of its own in the comparison's overrides"
        )


def measured_pairs(records: Sequence[Json]) -> list[str]:
    """Of which pairs the records hold ``chosen_logp_change``: older ones have it as the last batch of a
    training showed it, before its update."""
    trainings = [entry.get("training") or {} for r in records for entry in r["models"]]
    changes = [training for training in trainings if "chosen_logp_change" in training]
    measured = {"num_measured_pairs" in training for training in changes}
    texts = {False: "of the last batch", True: "of all its pairs, measured after it"}
    return [text for known, text in texts.items() if known in measured]


def names_of(record: Json) -> list[str]:
    """M1 to the last model."""
    return [entry["name"] for entry in record["models"] if entry["name"] != "M0"]


def method_figures(records: list[Json], comparison: CompareConfig) -> Json:
    """A method's figures, seed by seed and over seeds."""
    records = sorted(records, key=lambda record: comparison.seeds.index(record["seed"]))
    names = names_of(records[0])
    first, last = names[0], names[-1]
    seeds = []
    for record in records:
        entries = {entry["name"]: entry for entry in record["models"]}
        seeds.append(
            {
                "seed": record["seed"],
                "accuracy": {name: entries[name]["accuracy"] for name in names},
                "hard": {name: (entries[name].get("hard") or {}).get("accuracy") for name in names},
                "wall_s": sum(record["wall_s"].values()),
                "cost": record["cost"],
                "alarms": record["alarms"],
            }
        )
    figures: Json = {"seeds": seeds, "settings": records[0]["settings"], "models": {}}
    for name in names:
        figures["models"][name] = model_figures(records, name)
    for test_set, prefix in (("heldout", ""), ("hard", "hard_")):
        ends, starts = ([(record, model) for record in records] for model in (last, first))
        gains = gain_of(ends, starts, test_set)
        if not gains.size:
            continue
        mean, error = mean_and_error(gains.mean(axis=1).tolist())
        figures |= {
            f"{prefix}rise_mean": mean,
            f"{prefix}rise_se": error,
            f"{prefix}rise_se_problems": problem_error(gains),
            f"{prefix}rise_ci95": list(mean_interval(gains)),
        }
    # records from before `refresh` lack its tokens
    figures["tokens_mean"] = mean_and_error(
        [sum(s["cost"].get(name, 0) for name in TOKENS) for s in seeds]
    )[0]
    figures["pairs_mean"] = mean_and_error([s["cost"]["num_pairs"] for s in seeds])[0]
    return figures


# Health figures of a model by their paths in its entry; the last part is their name here.
HEALTH = (
    "steps_right_share",
    "judge_accuracy_on_policy",
    "judge_accuracy_fixed",
    "learned_from/ranking_accuracy",
    "order_flip_share",
    "first_share",
    "tie_share",
    "unparsable_share",
    "steps_per_solution",
    "tokens_per_step",
    "longer_win_share",
    "longer_true_share",
    "training/chosen_logp_change",
    "training/rejected_logp_change",
    "pass_at_8",
    "distinct_answers",
    "probes/tau_before",
    "probes/tau_first",
    "probes/self_reward",
    "probes/true_reward",
    "chosen_right_share",
    "rejected_right_share",
    "num_pairs",
)


# Of which the methods' differences are of interest, too.
DIFFERENCES = ("judge_accuracy_on_policy", "pass_at_8", "steps_right_share")


def model_figures(records: list[Json], name: str) -> Json:
    """One model of a method: means over seeds with their standard errors."""
    entries = [entry_of(record, name) for record in records]
    figures: Json = {}
    for test_set, key in (("heldout", "accuracy"), ("hard", "hard")):
        values = correct(records, name, test_set)
        if values.size:
            mean, error = mean_and_error(values.mean(axis=1).tolist())
            figures |= {key: mean, f"{key}_se": error, f"{key}_se_problems": problem_error(values)}
    figures["health"] = {}
    for path in HEALTH:
        known = [v for v in (look_up(entry, path) for entry in entries) if v is not None]
        key = path.rpartition("/")[2]
        figures["health"][key] = mean_and_error(known)[0] if known else None
    return figures


def difference_figures(key: str, method: list[Json], other: list[Json]) -> Json:
    """Paired difference of the last models, on the seeds that both have: their accuracy, and what is
    measured of them in other ways (over seeds alone)."""
    seeds = sorted({r["seed"] for r in method} & {r["seed"] for r in other})
    if not seeds:
        return {}
    models, others = (
        [(next(r for r in rows if r["seed"] == seed), names_of(rows[0])[-1]) for seed in seeds]
        for rows in (method, other)
    )
    figures: Json = {f"{key}_num_seeds": len(seeds)}
    for test_set, middle in (("heldout", ""), ("hard", "_hard")):
        gain = gain_of(models, others, test_set)
        if gain.size:
            figures[f"{key}{middle}"] = float(gain.mean())
            figures[f"{key}{middle}_ci95"] = list(mean_interval(gain))
    for path in DIFFERENCES:
        pairs = [
            [look_up(entry_of(record, name), path) for record, name in side]
            for side in (models, others)
        ]
        gains = [a - b for a, b in zip(*pairs, strict=True) if a is not None and b is not None]
        if len(gains) > 1:
            mean, error = mean_and_error(gains)
            half = t_quantile(len(gains) - 1) * (error or 0.0)
            figures |= {f"{key}_{path}": mean, f"{key}_{path}_ci95": [mean - half, mean + half]}
    return figures


def entry_of(record: Json, model: str) -> Json:
    """A model's entry."""
    found: Json = next(entry for entry in record["models"] if entry["name"] == model)
    return found


def test_time_figures(records: list[Json]) -> Json:
    """Greedy, step search and a majority vote of no more tokens, of the first and the last model."""
    names = names_of(records[0])
    result: Json = {}
    for name in (names[0], names[-1]):
        entries = [entry_of(record, name)["test_time"] for record in records]
        if not all(entries):
            continue
        figures: Json = {
            key: mean_and_error([entry[key] for entry in entries])[0]
            for key in ("num_problems", "search_tokens", "majority_tokens", "majority_samples")
        }
        values = {
            way: matrix(
                [entry["correct"][way] for entry in entries], names_in(records), f"{name}, {way}"
            )
            for way in ("greedy", "search", "majority")
        }
        for way, outcome in values.items():
            mean, error = mean_and_error(outcome.mean(axis=1).tolist())
            figures |= {way: mean, f"{way}_se": error}
        for way in ("greedy", "majority"):
            gain = values["search"] - values[way]
            figures[f"search_minus_{way}"] = float(gain.mean())
            figures[f"search_minus_{way}_ci95"] = list(mean_interval(gain))
        result[name] = figures
    return result
