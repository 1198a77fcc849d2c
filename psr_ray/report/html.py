"""The HTML report of a run: one self-contained file, readable without a network."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from rich.console import Console

from psr_ray.data.rows import Row
from psr_ray.report.display import (
    COLUMNS,
    HEALTH_COLUMNS,
    HEALTH_LEGEND,
    LEGEND,
    alarm_lines,
    cells,
    duration,
    health_cells,
    number,
    share,
)
from psr_ray.report.figures import new_figure, to_png
from psr_ray.report.transcript import search_tree
from psr_ray.storage.files import Json, write_text
from psr_ray.storage.shards import read_rows, shards

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_report(run_dir: Path, summary: Json) -> Path:
    """Write report.html (and its first figure as report.png) into the run folder."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent.parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    models = summary["models"]
    figures = []
    overview = models_figure(models)
    (run_dir / "report.png").write_bytes(overview)
    figures.append(("accuracy, judge and steps by model", encode(overview)))
    curves = training_curves(run_dir, models)
    if curves is not None:
        figures.append(("step-DPO training curves", encode(curves)))
    memory = summary["peak_rss_bytes"]
    html = environment.get_template("report.html.jinja").render(
        summary=summary,
        headline=headline(models),
        columns=COLUMNS,
        legend=LEGEND,
        rows=[cells(entry) for entry in models],
        health_columns=HEALTH_COLUMNS,
        health_legend=HEALTH_LEGEND,
        health=[health_cells(entry) for entry in models],
        alarms=alarm_lines(summary),
        num_problems=models[0]["num_problems"] if models else 0,
        figures=figures,
        searches=[search_cells(entry) for entry in models],
        transcript=transcript(run_dir),
        wall=[(name, duration(seconds)) for name, seconds in summary["wall_s"].items()],
        memory="not measured" if memory is None else f"{memory / 2**30:.1f} GiB",
    )
    write_text(run_dir / "report.html", html)
    return run_dir / "report.html"


def headline(models: list[Json]) -> str:
    """What the run shows, in one sentence, with the standard error of the difference."""
    trained = [entry for entry in models if entry["name"] != "M0" and entry["accuracy"] is not None]
    if len(trained) < 2:
        return ""
    first, last = trained[0], trained[-1]
    change = 100 * (last["accuracy"] - first["accuracy"])
    error = 100 * (last["accuracy_se"] ** 2 + first["accuracy_se"] ** 2) ** 0.5
    word = (
        "rose" if change > 2 * error else "fell" if change < -2 * error else "did not clearly move"
    )
    return (
        f"From {first['name']} to {last['name']} greedy accuracy {word}: "
        f"{change:+.1f} points (standard error of the difference {error:.1f})."
    )


def search_cells(entry: Json) -> list[str]:
    """A model's row of the step-preference table."""
    return [
        entry["name"],
        str(entry["num_pairs"]),
        share(entry["chosen_right_share"]),
        share(entry["rejected_right_share"]),
        number(entry["distinct_candidates_per_step"]),
        share(entry["search_accuracy"]),
        number(entry["rollbacks_per_search"]),
        share(entry["prefix_cache_hit_rate"]),
    ]


def transcript(run_dir: Path) -> str | None:
    """The first search of the last iteration that went back at least once (or just the first)."""
    folders = sorted(run_dir.glob("search-*/search"))
    if not folders:
        return None
    best: Row | None = None
    for row in read_rows(shards(folders[-1])):
        if best is None or (row["num_rollbacks"] or 0) > 0:
            best = row
        if (row["num_rollbacks"] or 0) > 0:
            break
    if best is None:
        return None
    console = Console(width=130, file=io.StringIO(), record=True, color_system=None)
    console.print(search_tree(best))
    return console.export_text()


def encode(png: bytes) -> str:
    return base64.b64encode(png).decode()


def plot_by_model(axis: Axes, models: list[Json], key: str, label: str, scale: float = 1.0) -> None:
    """One figure over the models; models without it are left out, their places are not."""
    points = [(x, scale * e[key]) for x, e in enumerate(models) if e[key] is not None]
    axis.plot([x for x, _ in points], [y for _, y in points], marker="o", label=label)


def models_figure(models: list[Json]) -> bytes:
    """Accuracy, judge health and step shape, by model."""
    figure, (accuracy, judge, steps) = new_figure(3)
    known = [(x, e) for x, e in enumerate(models) if e["accuracy"] is not None]
    accuracy.errorbar(
        [x for x, _ in known],
        [100 * e["accuracy"] for _, e in known],
        yerr=[100 * e["accuracy_se"] for _, e in known],
        marker="o",
        capsize=4,
    )
    accuracy.set(title="greedy accuracy, held-out", ylabel="%", ylim=(0, 100))
    for key, label in (
        ("judge_accuracy_on_policy", "right on own steps"),
        ("judge_accuracy_fixed", "right on fixed set"),
        ("order_flip_share", "order flips"),
        ("tie_share", "ties"),
        ("unparsable_share", "unparsable"),
    ):
        plot_by_model(judge, models, key, label, scale=100)
    judge.set(title="judge", ylabel="%", ylim=(-3, 103))
    plot_by_model(steps, models, "steps_per_solution", "steps per solution")
    plot_by_model(steps, models, "tokens_per_step", "tokens per step")
    steps.set(title="steps", ylim=(0, None))
    for axis in (accuracy, judge, steps):
        axis.set_xticks(range(len(models)), [entry["name"] for entry in models])
        axis.set_xlim(-0.3, len(models) - 0.7)
    for axis in (judge, steps):
        axis.legend(fontsize=8, frameon=False, loc="center right")
    return to_png(figure)


def training_curves(run_dir: Path, models: list[Json]) -> bytes | None:
    """Loss, log-probability changes of chosen and rejected steps, for each step-DPO stage."""
    curves = []
    for entry in models:
        number_ = int(entry["name"].removeprefix("M"))
        path = run_dir / f"train-{number_ - 1}" / "metrics.jsonl"
        if number_ > 1 and path.is_file():
            curves.append((entry["name"], [json.loads(line) for line in path.open()]))
    if not curves:
        return None
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
