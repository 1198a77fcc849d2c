"""The HTML report of a run: one self-contained file, readable without a network."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import jinja2
from markupsafe import Markup

from psr_ray.measures.health import accuracy_error
from psr_ray.report.curves import models_figure, rounds_figure, training_curves
from psr_ray.report.display import (
    COLUMNS,
    HEALTH_COLUMNS,
    HEALTH_LEGEND,
    LEGEND,
    alarm_lines,
    cells,
    duration,
    health_cells,
    held_line,
    number,
    share,
    thinned,
)
from psr_ray.report.paper import views, write_views
from psr_ray.report.walkthrough import as_script, searches_of
from psr_ray.storage.files import Json, write_text

# Stages whose times are shown one by one.
MOST_STAGES = 40
TEMPLATES = Path(__file__).parent.parent / "templates" / "report"


def write_report(run_dir: Path, summary: Json) -> Path:
    """Write report.html, its first figure as report.png, and the paper's tables into the run folder."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    every, rounds = summary["models"], summary["rounds"]
    models = thinned(every)
    overview = models_figure(every)
    (run_dir / "report.png").write_bytes(overview)
    figures = [
        ("accuracy, judge, steps, reward and diversity by model, with 95 % intervals", overview),
        ("step-DPO training curves", training_curves(run_dir, len(rounds), summary["outdated"])),
        ("what each round took and gave", rounds_figure(rounds)),
    ]
    write_views(run_dir, summary)
    memory = summary["peak_rss_bytes"]
    stages = search_stages(run_dir, summary["outdated"])
    html = environment.get_template("page.html.jinja").render(
        summary=summary,
        headline=headline(models),
        columns=COLUMNS,
        legend=LEGEND,
        rows=[cells(entry) for entry in models],
        health_columns=HEALTH_COLUMNS,
        health_legend=HEALTH_LEGEND,
        health=[health_cells(entry) for entry in models],
        alarms=alarm_lines(summary),
        hidden=len(every) - len(models),
        num_problems=models[0]["num_problems"] if models else 0,
        figures=[(title, base64.b64encode(png).decode()) for title, png in figures if png],
        views=views(summary | {"models": models}),
        searches=[search_cells(entry) for entry in models],
        cost_columns=COST_COLUMNS,
        costs=[row for row in map(cost_cells, models) if row],
        searched=[model for model, _ in stages],
        walkthrough=Markup(as_script(searches_of(stages))),
        wall=wall_lines(summary["wall_s"]),
        held=held_line(summary),
        memory="not measured" if memory is None else f"{memory / 2**30:.1f} GiB",
    )
    write_text(run_dir / "report.html", html)
    return run_dir / "report.html"


def wall_lines(wall_s: dict[str, float]) -> list[tuple[str, str]]:
    """Time by stage; of many stages, by kind of stage."""
    found = wall_s
    if len(wall_s) > MOST_STAGES:
        found = {}
        for name, seconds in wall_s.items():
            kind = name.partition("-")[0] if not name.startswith("seed") else name
            found[kind] = found.get(kind, 0.0) + seconds
    return [(name, duration(seconds)) for name, seconds in found.items()]


def search_stages(run_dir: Path, outdated: list[str]) -> list[tuple[str, Path]]:
    """The models that searched, each with its stage's folder, but for outdated ones."""
    folders_there = (f for f in run_dir.glob("search-*") if f.name not in outdated)
    found = [(re.fullmatch(r"search-(\d+)", f.name), f) for f in folders_there]
    folders = {int(match[1]): folder for match, folder in found if match is not None}
    return [(f"M{k}", folders[k]) for k in sorted(folders)]


def headline(models: list[Json]) -> str:
    """The run's result in one sentence, with the standard error of the difference."""
    trained = [entry for entry in models if entry["name"] != "M0" and entry["accuracy"] is not None]
    if len(trained) < 2:
        return ""
    first, last = trained[0], trained[-1]
    change = 100 * (last["accuracy"] - first["accuracy"])
    error = 100 * accuracy_error(last, first)
    word = (
        "rose" if change > 2 * error else "fell" if change < -2 * error else "did not clearly move"
    )
    return (
        f"From {first['name']} to {last['name']} greedy accuracy {word}: "
        f"{change:+.1f} points (standard error of the difference {error:.1f})."
    )


COST_COLUMNS = (
    "model",
    "solve",
    "work",
    "critique",
    "compare",
    "comparisons asked",
    "texts cut off",
    "steps without budget",
    "pairs",
    "tokens a pair",
    "right pairs",
    "tokens a right pair",
)


def cost_cells(entry: Json) -> list[str] | None:
    """What the search that a model learned from cost; None where it learned from none."""
    figures = entry["learned_from"]
    if figures.get("num_sampled_tokens") is None:
        return None

    def amount(name: str) -> str:
        value = figures.get(name)
        return "–" if value is None else f"{value:,.0f}"

    return [
        entry["name"],
        *(
            amount(f"num_{purpose}_tokens")
            for purpose in ("sampled", "work", "critique", "compare")
        ),
        share(figures.get("asked_share")),
        amount("num_cut_texts"),
        amount("num_spent_steps"),
        amount("num_pairs_found"),
        amount("tokens_per_pair"),
        amount("num_right_pairs"),
        amount("tokens_per_right_pair"),
    ]


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
