"""Means, standard errors and intervals of a comparison, from the stored records.

Two sources of chance are kept separate: seeds (data, fine-tuning, sampling) and held-out problems. The
standard error of a mean over seeds is sd / sqrt(number of seeds). Intervals have both in them
(``mean_interval``); all runs are tested on the same problems, so that differences are paired.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psr_ray.compare.config import CompareConfig
from psr_ray.errors import PsrError
from psr_ray.measures.intervals import mean_and_error, t_quantile
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
    result["logp_change_of"] = measured_pairs(records)
    if reference in done:
        result["test_time"] = test_time_figures(done[reference])
        for name, rows in done.items():
            if name != reference:
                key = f"{reference}_minus_{name.replace('-', '_')}"
                result |= difference_figures(key, done[reference], rows)
    return result


def check_same_problems(records: Sequence[Json]) -> None:
    """All records must be of the same held-out problems, else nothing can be paired."""
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
    figures["tokens_mean"] = mean_and_error(
        [s["cost"]["num_sampled_tokens"] + s["cost"]["num_judge_tokens"] for s in seeds]
    )[0]
    figures["pairs_mean"] = mean_and_error([s["cost"]["num_pairs"] for s in seeds])[0]
    return figures


# Health figures of a model: name, and path in a model's entry.
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


def difference_figures(key: str, reference: list[Json], other: list[Json]) -> Json:
    """Paired difference of the last models' accuracy on the seeds that both have."""
    seeds = sorted({r["seed"] for r in reference} & {r["seed"] for r in other})
    if not seeds:
        return {}
    models, others = (
        [(next(r for r in rows if r["seed"] == seed), names_of(rows[0])[-1]) for seed in seeds]
        for rows in (reference, other)
    )
    figures: Json = {f"{key}_num_seeds": len(seeds)}
    for test_set, middle in (("heldout", ""), ("hard", "_hard")):
        gain = gain_of(models, others, test_set)
        if gain.size:
            figures[f"{key}{middle}"] = float(gain.mean())
            figures[f"{key}{middle}_ci95"] = list(mean_interval(gain))
    return figures


def test_time_figures(records: list[Json]) -> Json:
    """Greedy, step search and a majority vote of no more tokens, of the first and the last model."""
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
