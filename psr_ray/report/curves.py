"""The report's figures: accuracy, judge and health by model, with intervals; training curves."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from psr_ray.measures.intervals import interval
from psr_ray.report.figures import new_figure, to_png
from psr_ray.report.paper import of_benchmark
from psr_ray.storage.files import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Z95 = 1.96
# Models named on an axis.
MOST_TICKS = 12


# Rounds whose training curves are drawn beside each other; those of more are drawn as one.
MOST_CURVES = 6


def training_curves(run_dir: Path, num_rounds: int, outdated: list[str]) -> bytes | None:
    """Loss, log-probability changes of chosen and rejected steps, for each step-DPO stage that is not
    outdated; of many rounds one after the other."""
    curves: list[tuple[str, list[Json]]] = []
    for number in range(1, num_rounds + 1):
        path = run_dir / f"train-{number}" / "metrics.jsonl"
        if path.is_file() and f"train-{number}" not in outdated:
            curves.append((f"M{number + 1}", [json.loads(line) for line in path.open()]))
    if not curves:
        return None
    if len(curves) > MOST_CURVES:
        steps = [step for _, some in curves for step in some]
        joined = [step | {"step": place} for place, step in enumerate(steps, start=1)]
        curves = [(f"{curves[0][0]} to {curves[-1][0]}", joined)]
    figure, (loss, chosen, margin) = new_figure(3)
    for name, steps in curves:
        xs = [step["step"] for step in steps]
        loss.plot(xs, [step["dpo_loss"] for step in steps], label=name)
        [line] = chosen.plot(xs, [step["chosen_logp_change"] for step in steps], label=name)
        chosen.plot(
            xs,
            [step["rejected_logp_change"] for step in steps],
            linestyle=":",
            color=line.get_color(),
        )
        margin.plot(xs, [step["accuracy"] for step in steps], label=name)
    loss.axhline(0.693147, color="#999", linewidth=0.8)
    loss.set(title="step-DPO loss (line: ln 2)", xlabel="step")
    chosen.axhline(0.0, color="#999", linewidth=0.8)
    chosen.set(title="log-prob change: chosen –, rejected ···", xlabel="step")
    margin.set(title="share of pairs with a positive margin", xlabel="step", ylim=(0, 1.02))
    for axis in (loss, chosen, margin):
        axis.legend(fontsize=8, frameon=False)
    return to_png(figure)


def with_bars(
    axis: Axes, names: Sequence[str], points: Sequence[tuple[str, float, float, float]], label: str
) -> None:
    """A curve of (model, value, low, high), in percent; models without it are left out."""
    if not points:
        return
    places = [names.index(name) for name, *_ in points]
    values = [100 * value for _, value, *_ in points]
    below = [100 * max(0.0, value - low) for _, value, low, _ in points]
    above = [100 * max(0.0, high - value) for _, value, _, high in points]
    axis.errorbar(places, values, yerr=[below, above], marker="o", capsize=3, label=label)


def accuracy_points(
    models: list[Json], find: Callable[[Json], Json | None]
) -> list[tuple[str, float, float, float]]:
    """Accuracy of the models, with Wilson's interval; ``find`` takes its figures from a model's."""
    found = [(find(entry) or {}) | {"name": entry["name"]} for entry in models]
    return share_points(found, "accuracy", "num_problems")


def share_points(models: list[Json], key: str, num: str) -> list[tuple[str, float, float, float]]:
    """A share by model with Wilson's interval over ``num`` observations."""
    return [
        (entry["name"], entry[key], *interval(entry[key], entry[num]))
        for entry in models
        if entry.get(key) is not None and entry.get(num)
    ]


def mean_points(models: list[Json], key: str) -> list[tuple[str, float, float, float]]:
    """A mean by model, with 1.96 of its standard errors to both sides."""
    found = []
    for entry in models:
        value = entry.get(key)
        if value is not None:
            half = Z95 * (entry.get(f"{key}_se") or 0.0)
            found.append((entry["name"], value, max(0.0, value - half), min(1.0, value + half)))
    return found


def plot_by_model(axis: Axes, models: list[Json], key: str, label: str, scale: float = 1.0) -> None:
    """One figure over the models; models without it are left out, their places are not."""
    points = [(x, scale * e[key]) for x, e in enumerate(models) if e.get(key) is not None]
    if points:
        axis.plot([x for x, _ in points], [y for _, y in points], marker=".", ls="--", label=label)


def models_figure(models: list[Json]) -> bytes:
    """Accuracy on all problems, the judge, steps, self-reward beside true reward and pass@8, by model.

    Bars are 95 % intervals. Verdicts of one problem are not independent: on own steps they are too
    narrow."""
    figure, (accuracy, judge, steps, reward) = new_figure(4, height=3.8)
    names = [entry["name"] for entry in models]
    benchmarks = dict.fromkeys(b for entry in models for b in entry.get("benchmarks") or {})
    with_bars(accuracy, names, accuracy_points(models, lambda entry: entry), "held-out")
    with_bars(accuracy, names, accuracy_points(models, lambda entry: entry.get("hard")), "hard")
    for name in benchmarks:
        found = accuracy_points(models, partial(of_benchmark, name=name))
        with_bars(accuracy, names, found, name)
    accuracy.set(title="greedy accuracy", ylabel="%", ylim=(-3, 103))
    with_bars(judge, names, mean_points(models, "judge_accuracy_fixed"), "right on fixed pairs")
    own = share_points(models, "judge_accuracy_on_policy", "num_gradable_verdicts")
    with_bars(judge, names, own, "right on own steps")
    for key, label in (
        ("order_flip_share", "order flips"),
        ("tie_share", "ties"),
        ("unparsable_share", "unparsable"),
    ):
        plot_by_model(judge, models, key, label, scale=100)
    judge.set(title="judge", ylabel="%", ylim=(-3, 103))
    plot_by_model(steps, models, "steps_per_solution", "steps per solution")
    plot_by_model(steps, models, "tokens_per_step", "tokens per step")
    steps.set(title="steps", ylim=(0, None))
    probed = [{"name": entry["name"], **(entry.get("probes") or {})} for entry in models]
    with_bars(reward, names, mean_points(probed, "self_reward"), "self-reward against M1")
    with_bars(reward, names, mean_points(probed, "true_reward"), "true reward against M1")
    with_bars(reward, names, mean_points(models, "pass_at_8"), "pass@8")
    reward.set(title="reward and diversity", ylabel="%", ylim=(-3, 103))
    for axis in (accuracy, judge, steps, reward):
        shown = range(0, len(models), len(models) // MOST_TICKS + 1)
        axis.set_xticks(shown, [names[place] for place in shown])
        axis.set_xlim(-0.3, len(models) - 0.7)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8, frameon=False)
    return to_png(figure)


def rounds_figure(rounds: list[Json]) -> bytes | None:
    """Seconds of each round by part, its pairs, its search and judge; None for a single round."""
    if len(rounds) < 2:
        return None
    figure, (seconds, pairs, shares) = new_figure(3)
    xs = [entry["iteration"] for entry in rounds]
    below = [0.0] * len(rounds)
    for part in rounds[0]["seconds"]:
        heights = [entry["seconds"][part] for entry in rounds]
        seconds.bar(xs, heights, bottom=below, label=part)
        below = [low + height for low, height in zip(below, heights, strict=True)]
    seconds.set(title="seconds by part", xlabel="round", ylim=(0, 1.3 * max(*below, 1.0)))
    seconds.legend(fontsize=8, frameon=False, ncols=3)
    pairs.bar(xs, [entry["num_pairs"] or 0 for entry in rounds])
    pairs.set(title="step preferences", xlabel="round")
    for key, label in (
        ("search_accuracy", "searches that end right"),
        ("judge_accuracy_on_policy", "verdicts right"),
        ("tie_share", "steps without preference"),
    ):
        points = [(x, 100 * e[key]) for x, e in zip(xs, rounds, strict=True) if e[key] is not None]
        if points:
            shares.plot(*zip(*points, strict=True), marker=".", label=label)
    shares.set(title="searches", ylabel="%", xlabel="round", ylim=(-3, 103))
    if shares.get_legend_handles_labels()[0]:
        shares.legend(fontsize=8, frameon=False)
    return to_png(figure)
