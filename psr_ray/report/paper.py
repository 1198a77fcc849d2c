"""The paper's tables (arXiv 2503.03746) as views of a run, with the published figures beside its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from psr_ray.report.published import (
    ACCURACY,
    BENCHMARKS,
    JUDGE,
    NUM_STEPS,
    SEARCH,
    SIZES,
    STEP_LENGTH,
    Row,
    published,
    published_name,
)
from psr_ray.storage.files import Json, write_text

FILE_NAME = "paper-tables.md"
# As no benchmark is called.
HELD_OUT = "held-out problems"
PAPER_ROW = "published, "


@dataclass(frozen=True)
class View:
    """One table: its first column names a model, or whose published figures a row holds."""

    title: str
    note: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)


def views(summary: Json) -> list[View]:
    """The views of what a run has measured; none without models."""
    models = [entry for entry in summary["models"] if entry["accuracy"] is not None]
    if not models:
        return []
    found = [judge_view(models)]
    names = list(dict.fromkeys(name for entry in models for name in entry.get("benchmarks") or {}))
    if names:
        names.sort(key=lambda name: (place(name), name))
        found = [accuracy_view(models, names), *found, steps_view(models, names)]
    searched = test_time_view(models, names)
    return [*found, *([searched] if searched.rows else [])]


def place(benchmark: str) -> int:
    """Order of a benchmark in the paper's tables; others come after them."""
    name = published_name(benchmark)
    return BENCHMARKS.index(name) if name is not None else len(BENCHMARKS)


def with_published(
    models: list[Json],
    names: list[str],
    own: Callable[[Json], list[str]],
    table: dict[str, dict[str, Row]],
    form: str,
) -> list[list[str]]:
    """A row for each model, and under it the published ones of the same iteration."""
    rows = []
    for entry in models:
        rows.append([entry["name"], *own(entry)])
        for size in SIZES:
            values = table[size].get(entry["name"])
            cells = [published(values, name) if values else None for name in names]
            if any(cell is not None for cell in cells):
                shown = ["–" if cell is None else format(cell, form) for cell in cells]
                rows.append([f"{PAPER_ROW}{size}", *shown])
    return rows


def accuracy_view(models: list[Json], names: list[str]) -> View:
    """Table 1."""

    def own(entry: Json) -> list[str]:
        return [accuracy(of_benchmark(entry, name)) for name in names]

    return View(
        "Accuracy by iteration and benchmark (Table 1)",
        "Greedy, in percent, with the 95 % interval (Wilson); in brackets, where they would add to it, "
        "with answers outside a box. The paper's MATH has 5,000 problems; it gives no intervals.",
        ["model", *names],
        with_published(models, names, own, ACCURACY, ".1f"),
    )


def of_benchmark(entry: Json, name: str) -> Json | None:
    """A model's figures on a benchmark; None where it was not measured on it."""
    found: Json | None = (entry.get("benchmarks") or {}).get(name)
    return found


def accuracy(figures: Json | None) -> str:
    if figures is None or figures["accuracy"] is None:
        return "–"
    low, high = figures["accuracy_ci95"]
    shown = f"{100 * figures['accuracy']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    with_unboxed = figures.get("accuracy_with_unboxed") or 0.0
    return shown + (f" ({100 * with_unboxed:.1f})" if with_unboxed > figures["accuracy"] else "")


def judge_view(models: list[Json]) -> View:
    """Table 3."""
    view = View(
        "Judge accuracy by iteration (Table 3)",
        "Percent of verdicts that are right: on fixed pairs in both orders (± one standard error), and "
        "on the model's own fresh steps of which exactly one is right, where that is known. The "
        "paper's 500 pairs are filtered by agreement; its M0 sees three examples, ours none.",
        ["model", "fixed pairs", "own steps", *(f"{PAPER_ROW}{size}" for size in SIZES)],
    )
    for entry in models:
        fixed, error = entry["judge_accuracy_fixed"], entry.get("judge_accuracy_fixed_se")
        own = entry["judge_accuracy_on_policy"]
        view.rows.append(
            [
                entry["name"],
                "–" if fixed is None else f"{100 * fixed:.1f} ± {100 * (error or 0.0):.1f}",
                "–" if own is None else f"{100 * own:.1f}",
                *(published_judge(size, entry["name"]) for size in SIZES),
            ]
        )
    return view


def published_judge(size: str, model: str) -> str:
    """The paper's figure of a model's judge; M0's was shown three examples."""
    if model not in JUDGE[size]:
        return "–"
    return f"{JUDGE[size][model]}{' (3-shot)' if model == 'M0' else ''}"


def steps_view(models: list[Json], names: list[str]) -> View:
    """Tables 7 and 8."""

    def both(number: Any, length: Any) -> str:
        return "–" if number is None else f"{number:.1f} | {length:.0f}"

    view = View(
        "Number | length of steps (Tables 7 and 8)",
        "Steps of a greedy solution, and tokens of a step (the paper does not name its unit).",
        ["model", *names],
    )
    for entry in models:
        own = [of_benchmark(entry, name) or {} for name in names]
        cells = [both(f.get("steps_per_solution"), f.get("tokens_per_step")) for f in own]
        view.rows.append([entry["name"], *cells])
        for size in SIZES:
            numbers, lengths = (
                table[size].get(entry["name"]) for table in (NUM_STEPS, STEP_LENGTH)
            )
            if numbers is not None and lengths is not None and any(map(published_name, names)):
                cells = [both(published(numbers, n), published(lengths, n)) for n in names]
                view.rows.append([f"{PAPER_ROW}{size}", *cells])
    return view


def test_time_view(models: list[Json], names: list[str]) -> View:
    """Tables 5 and 9, and what the paper has not: a majority vote of as many tokens, best of k."""
    view = View(
        "Test-time search with the model's own judge (Tables 5 and 9)",
        "Percent, on the same problems. Majority: of as many samples as the search's tokens (steps and "
        "judgements) pay for, or as there are; best of k: whole solutions compared in pairs. Tokens a "
        "problem in brackets. The paper gives 72B alone, and no majority vote.",
        ["model", "problems", "greedy", "search", "majority", "best of k", "greedy → search, 72B"],
    )
    for entry in models:
        for name in (HELD_OUT, *names):
            figures = entry if name == HELD_OUT else of_benchmark(entry, name) or {}
            found = figures.get("test_time")
            if not found:
                continue
            best = (figures.get("sampled") or {}).get("best_of")
            paper = SEARCH.get(entry["name"])
            values = (
                [published(paper[kind], name) for kind in ("greedy", "search")] if paper else []
            )
            view.rows.append(
                [
                    entry["name"],
                    f"{name} ({found['num_problems']})",
                    f"{100 * found['greedy']:.1f}",
                    f"{100 * found['search']:.1f} ({found['search_tokens']:.0f})",
                    f"{100 * found['majority']:.1f} ({found['majority_tokens']:.0f})",
                    f"{100 * best['accuracy']:.1f} ({best['tokens']:.0f})" if best else "–",
                    " → ".join(map(str, values)) if None not in values and values else "–",
                ]
            )
    return view


def markdown(view: View) -> str:
    """A view as a Markdown table."""
    lines = [view.columns, ["---"] * len(view.columns), *view.rows]
    table = "\n".join(
        f"| {' | '.join(cell.replace('|', '·') for cell in line)} |" for line in lines
    )
    return f"## {view.title}\n\n{view.note}\n\n{table}\n"


def markdown_templates(folder: Path) -> jinja2.Environment:
    """The templates of a folder, for Markdown: statements leave no blanks, texts are not escaped."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )


def write_views(run_dir: Path, summary: Json) -> None:
    """Write the views of all models as paper-tables.md into the run's folder."""
    text = f"# {summary['name']} beside the paper (arXiv 2503.03746)\n\n"
    write_text(run_dir / FILE_NAME, text + "\n".join(map(markdown, views(summary))))
