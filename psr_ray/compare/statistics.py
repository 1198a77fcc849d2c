"""Means, standard errors and intervals of a comparison, from the stored records.

Two sources of chance are kept apart: seeds (data, fine-tuning, sampling) and held-out problems. The
standard error of a mean over seeds is sd / sqrt(number of seeds). Intervals are bootstrap percentiles
over both: seeds are resampled, and problems too, the same for all seeds and both sides (all runs are
tested on the same problems, so that differences are paired).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psr_ray.compare.config import CompareConfig
from psr_ray.errors import PsrError
from psr_ray.measures.intervals import mean_and_error
from psr_ray.storage.files import Json

Matrix = NDArray[np.float64]  # [seeds, problems]


def bootstrap_interval(values_SP: Matrix, num: int, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of ``values_SP`` [seeds, problems], both resampled."""
    rng = np.random.default_rng(seed)
    num_seeds, num_problems = values_SP.shape
    # the mean over resampled rows and columns, without building the resampled matrices
    rows = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=num) / num_seeds
    columns = rng.multinomial(num_problems, np.full(num_problems, 1 / num_problems), size=num)
    means = np.einsum("bs,sp,bp->b", rows, values_SP, columns / num_problems, optimize=True)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def problem_error(values_SP: Matrix) -> float:
    """Standard error of the mean over problems, the seeds as they are."""
    per_problem = values_SP.mean(axis=0)
    return float(per_problem.std(ddof=1) / math.sqrt(len(per_problem)))


def matrix(strings: Sequence[str]) -> Matrix:
    """Strings of 0 and 1, one a seed, as [seeds, problems]."""
    return np.array([[float(c == "1") for c in string] for string in strings])


def correct(records: Sequence[Json], model: str, test_set: str) -> Matrix:
    """Which problems a model solved [seeds, problems]."""
    return matrix([record["correct"][model][test_set] for record in records])


def aggregate(comparison: CompareConfig, records: Sequence[Json]) -> Json:
    """The comparison's figures (``results/NAME.json``)."""
    by_method: dict[str, list[Json]] = {name: [] for name in comparison.methods}
    for record in records:
        by_method[record["method"]].append(record)
    done = {name: rows for name, rows in by_method.items() if rows}
    if not done:
        raise PsrError(f"{comparison.records}: no records; psr-ray compare makes them")
    check_same_problems(records)
    reference = comparison.reference
    result: Json = {
        "name": comparison.name,
        "reference": reference,
        "planned_seeds": list(comparison.seeds),
        "settings": {
            "base": comparison.base,
            "all runs": comparison.overrides,
            "methods": comparison.methods,
        },
        "methods": {name: method_figures(rows, comparison) for name, rows in done.items()},
        "versions": {name: rows[0]["versions"] for name, rows in done.items()}[next(iter(done))],
    }
    if reference in done:
        result["test_time"] = test_time_figures(done[reference], comparison.num_bootstrap)
        for name, rows in done.items():
            if name != reference:
                key = f"{reference}_minus_{name.replace('-', '_')}"
                result |= difference_figures(key, done[reference], rows, comparison.num_bootstrap)
    return result


def check_same_problems(records: Sequence[Json]) -> None:
    """All records must be of the same held-out problems, else nothing can be paired."""
    digests = {str(record["problems"]) for record in records}
    if len(digests) > 1:
        raise PsrError(
            "the records are of different held-out problems: give data.heldout (and data.hard) a "
            "`seed` of its own in the comparison's overrides"
        )


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
        gains = correct(records, last, test_set) - correct(records, first, test_set)
        if not gains.size:
            continue
        mean, error = mean_and_error(gains.mean(axis=1).tolist())
        figures |= {
            f"{prefix}rise_mean": mean,
            f"{prefix}rise_se": error,
            f"{prefix}rise_se_problems": problem_error(gains),
            f"{prefix}rise_ci95": list(bootstrap_interval(gains, comparison.num_bootstrap)),
        }
    figures["tokens_mean"] = mean_and_error(
        [s["cost"]["num_sampled_tokens"] + s["cost"]["num_judge_tokens"] for s in seeds]
    )[0]
    figures["pairs_mean"] = mean_and_error([s["cost"]["num_pairs"] for s in seeds])[0]
    return figures


# Health figures of a model: name and where it stands in a model's entry.
HEALTH = {
    "judge_accuracy_on_policy": ("judge_accuracy_on_policy",),
    "judge_accuracy_fixed": ("judge_accuracy_fixed",),
    "ranking_accuracy": ("learned_from", "ranking_accuracy"),
    "order_flip_share": ("order_flip_share",),
    "first_share": ("first_share",),
    "tie_share": ("tie_share",),
    "unparsable_share": ("unparsable_share",),
    "steps_per_solution": ("steps_per_solution",),
    "tokens_per_step": ("tokens_per_step",),
    "longer_win_share": ("longer_win_share",),
    "longer_true_share": ("longer_true_share",),
    "chosen_logp_change": ("training", "chosen_logp_change"),
    "rejected_logp_change": ("training", "rejected_logp_change"),
    "pass_at_8": ("pass_at_8",),
    "distinct_answers": ("distinct_answers",),
    "tau_before": ("probes", "tau_before"),
    "tau_first": ("probes", "tau_first"),
    "self_reward": ("probes", "self_reward"),
    "true_reward": ("probes", "true_reward"),
    "chosen_right_share": ("chosen_right_share",),
    "rejected_right_share": ("rejected_right_share",),
    "num_pairs": ("num_pairs",),
}


def look_up(entry: Json, path: Sequence[str]) -> Any:
    value: Any = entry
    for key in path:
        value = (value or {}).get(key)
    return value


def model_figures(records: list[Json], name: str) -> Json:
    """One model of a method: means over seeds with their standard errors."""
    entries = [next(e for e in record["models"] if e["name"] == name) for record in records]
    figures: Json = {}
    for test_set, key in (("heldout", "accuracy"), ("hard", "hard")):
        values = correct(records, name, test_set)
        if values.size:
            mean, error = mean_and_error(values.mean(axis=1).tolist())
            figures |= {key: mean, f"{key}_se": error, f"{key}_se_problems": problem_error(values)}
    figures["health"] = {}
    for key, path in HEALTH.items():
        known = [v for v in (look_up(entry, path) for entry in entries) if v is not None]
        figures["health"][key] = mean_and_error(known)[0] if known else None
    return figures


def difference_figures(
    key: str, reference: list[Json], other: list[Json], num_bootstrap: int
) -> Json:
    """Paired difference of the last models' accuracy on the seeds that both have."""
    seeds = sorted({r["seed"] for r in reference} & {r["seed"] for r in other})
    if not seeds:
        return {}
    pairs = [
        [next(r for r in rows if r["seed"] == seed) for seed in seeds]
        for rows in (reference, other)
    ]
    last = names_of(pairs[0][0])[-1]
    figures: Json = {}
    for test_set, middle in (("heldout", ""), ("hard", "_hard")):
        gain = correct(pairs[0], last, test_set) - correct(pairs[1], last, test_set)
        if gain.size:
            figures[f"{key}{middle}"] = float(gain.mean())
            figures[f"{key}{middle}_ci95"] = list(bootstrap_interval(gain, num_bootstrap))
    return figures


def test_time_figures(records: list[Json], num_bootstrap: int) -> Json:
    """Greedy, step search and majority vote at equal tokens, of the first and the last model."""
    names = names_of(records[0])
    result: Json = {}
    for name in (names[0], names[-1]):
        entries = [next(e for e in r["models"] if e["name"] == name)["test_time"] for r in records]
        if not all(entries):
            continue
        figures: Json = {
            key: mean_and_error([entry[key] for entry in entries])[0]
            for key in ("num_problems", "search_tokens", "majority_tokens", "majority_samples")
        }
        values = {
            way: matrix([entry["correct"][way] for entry in entries])
            for way in ("greedy", "search", "majority")
        }
        for way, outcome in values.items():
            mean, error = mean_and_error(outcome.mean(axis=1).tolist())
            figures |= {way: mean, f"{way}_se": error}
        for way in ("greedy", "majority"):
            gain = values["search"] - values[way]
            figures[f"search_minus_{way}"] = float(gain.mean())
            figures[f"search_minus_{way}_ci95"] = list(bootstrap_interval(gain, num_bootstrap))
        result[name] = figures
    return result
