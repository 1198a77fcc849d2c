"""Models on benchmarks: accuracy and its interval, how it was measured, doubtful gradings, test time."""

from __future__ import annotations

import difflib
import json
import re
from collections import defaultdict
from pathlib import Path

from psr_ray.answers.normal import normal
from psr_ray.config import Config
from psr_ray.data.benchmarks import benchmark_of
from psr_ray.data.rows import output_folder
from psr_ray.measures.intervals import interval
from psr_ray.measures.provenance import provenance
from psr_ray.measures.sampling import by_number, test_time_figures
from psr_ray.measures.solutions import Figures, solution_figures
from psr_ray.storage.files import Row, write_text
from psr_ray.storage.shards import read_rows, shards

FIGURES = "figures.json"
DOUBTFUL = "disagreements.jsonl"
# Share of common characters from which two answers look equal to a reader.
ALIKE = 0.8


def looks_equal(gold: str, predicted: str) -> bool:
    """Whether a reader would look twice at two answers that were graded unequal: they have the same
    letters and digits, most characters in common, or one holds the other."""
    first, second = (normal(text).casefold() for text in (gold, predicted))
    bare = [re.sub(r"\\[a-z]+|[\W_]", "", text) for text in (first, second)]
    if not bare[0] or not bare[1]:
        return False
    if bare[0] == bare[1]:
        return True
    if min(len(first), len(second)) < 4:
        return False
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    return first in second or second in first or matcher.ratio() >= ALIKE


def doubtful(rows: list[Row]) -> list[Row]:
    """Solutions marked wrong whose answers look equal."""
    names = ("id", "answer", "predicted", "problem")
    return [
        {name: row[name] for name in names}
        for row in rows
        if row["correct"] is False
        and row["predicted"]
        and looks_equal(row["answer"], row["predicted"])
    ]


def write_doubtful(folder: Path, found: list[Row]) -> None:
    """Store doubtful gradings."""
    write_text(folder / DOUBTFUL, "".join(json.dumps(row) + "\n" for row in found))


def figures_of_benchmark(solved: list[Row], searched: list[Row], sampled: list[Row]) -> Figures:
    """Greedy accuracy with Wilson's 95 % interval; with searches and samples pass@k, majority,
    best-of-k, and step search against a majority of as many tokens."""
    figures = solution_figures(solved)
    accuracy = figures["accuracy"]
    figures["accuracy_ci95"] = (
        None if accuracy is None else interval(accuracy, figures["num_problems"])
    )
    if sampled:
        figures["sampled"] = by_number(sampled)
    if searched and sampled:
        figures["test_time"] = test_time_figures(solved, searched, sampled)
    return figures


def benchmark_figures(folder: Path) -> dict[str, Figures]:
    """The figures of each benchmark in an evaluation's folder; lists doubtful gradings beside them."""

    def by_benchmark(task: str) -> dict[str, list[Row]]:
        found = defaultdict[str, list[Row]](list)
        for row in read_rows(shards(output_folder(folder, task, "benchmark"))):
            found[benchmark_of(row["id"])].append(row)
        return found

    solved, searched, sampled = map(by_benchmark, ("solve", "search", "sample"))
    found = {name: doubtful(rows) for name, rows in solved.items()}
    if solved:
        write_doubtful(folder, [row for rows in found.values() for row in rows])
    return {
        name: figures_of_benchmark(rows, searched.get(name, []), sampled.get(name, []))
        | {"num_doubtful": len(found[name])}
        for name, rows in sorted(solved.items())
    }


def write_benchmark(
    folder: Path,
    rows: list[Row],
    config: Config,
    model: str,
    name: str,
    searched: list[Row] | None = None,
    sampled: list[Row] | None = None,
) -> Figures:
    """Store the figures of a model on a benchmark beside its solutions, and the doubtful gradings."""
    figures = figures_of_benchmark(rows, searched or [], sampled or [])
    found = doubtful(rows)
    figures |= {"num_doubtful": len(found), "benchmark": name, "model": model}
    figures |= provenance(config)
    write_text(folder / FIGURES, json.dumps(figures, indent=1))
    write_doubtful(folder, found)
    return figures


def benchmark_lines(figures: Figures) -> str:
    """The figures of a benchmark for a person."""
    accuracy, num = figures["accuracy"], figures["num_problems"]
    low, high = figures["accuracy_ci95"]
    lines = [
        f"accuracy {accuracy:.1%} (95 % interval {low:.1%} to {high:.1%}) on {num} problems, "
        f"{figures['num_failed']} failed rows, {figures['unboxed_share']:.1%} without a boxed answer "
        f"({figures['accuracy_with_unboxed']:.1%} with answers found elsewhere)"
    ]
    if figures["num_doubtful"]:
        lines.append(f"{figures['num_doubtful']} marked wrong though they look equal: {DOUBTFUL}")
    lines += test_time_lines(figures.get("sampled") or {}, figures.get("test_time") or {})
    return "\n".join(lines)


def test_time_lines(sampled: Figures, test_time: Figures) -> list[str]:
    """Sampling and search at test time, each with what it costs, for a person."""
    lines = []
    if sampled:
        for name, key in (("pass@k", "pass_at"), ("majority of k", "majority_at")):
            values = ", ".join(f"{k}: {value:.1%}" for k, value in sampled[key].items())
            lines.append(f"{name} on {sampled['num_problems']} problems: {values}")
        best = sampled.get("best_of")
        if best:
            lines.append(
                f"best of {best['num_samples']} by its own judge: {best['accuracy']:.1%} for "
                f"{best['tokens']:.0f} tokens a problem ({best['num_judged']} problems judged)"
            )
    if test_time:
        lines.append(
            f"step search by its own judge: {test_time['search']:.1%} for "
            f"{test_time['search_tokens']:.0f} tokens a problem; greedy on the same problems "
            f"{test_time['greedy']:.1%}; majority of {test_time['majority_samples']} for "
            f"{test_time['majority_tokens']:.0f} tokens {test_time['majority']:.1%}"
        )
    return lines
