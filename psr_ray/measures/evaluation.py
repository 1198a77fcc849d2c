"""Figures of one model from the rows its evaluation wrote."""

from __future__ import annotations

from pathlib import Path

from psr_ray.data.rows import output_folder
from psr_ray.measures.benchmark import benchmark_figures
from psr_ray.measures.intervals import mean_and_error
from psr_ray.measures.probes import probe_figures
from psr_ray.measures.sampling import by_number, characters, sample_figures, test_time_figures
from psr_ray.measures.searches import SearchFigures, figures_of
from psr_ray.measures.solutions import Figures, solution_figures
from psr_ray.measures.verdict_counts import named
from psr_ray.method.verdicts import Verdict
from psr_ray.storage.files import Row
from psr_ray.storage.shards import read_rows, shards


def judge_figures(rows: list[Row]) -> Figures:
    """Judge accuracy on the fixed pairs, a mean over both orders; a missing verdict is wrong.

    The standard error is over pairs: the two orders of a pair are one observation.
    """
    if not rows:
        return {"judge_accuracy_fixed": None, "num_judged_pairs": 0}
    per_pair, num_flips, num_unparsable = [], 0, 0
    for row in rows:
        truth = float(row["verdict"] == "A") if row["verdict"] else None
        first, second = row["first_order"], row["second_order"]
        right = [
            value is not None and truth is not None and abs(value - wanted) < 0.5
            for value, wanted in ((first, truth), (second, None if truth is None else 1 - truth))
            if wanted is not None
        ]
        per_pair.append(sum(right) / 2)
        num_unparsable += (first is None) + (second is None)
        letters = named(Verdict(first)), named(Verdict(second))
        num_flips += letters[0] is not None and letters[0] is letters[1]
    mean, error = mean_and_error(per_pair)
    return {
        "num_judged_pairs": len(rows),
        "judge_accuracy_fixed": mean,
        "judge_accuracy_fixed_se": error,
        "order_flip_share_fixed": num_flips / len(rows),
        "unparsable_share_fixed": num_unparsable / (2 * len(rows)),
        "num_cut_texts_fixed": sum(row.get("num_cut_texts") or 0 for row in rows),
    }


def search_figures(folder: Path) -> SearchFigures:
    """Figures of the searches whose shards lie in a stage's folder."""
    return figures_of(read_rows(shards(output_folder(folder, "search"))))


def correct_characters(folder: Path, dataset: str | None = None) -> str:
    """Which problems of an evaluation a model solved: a character a problem, in order of their ids."""
    solved = read_rows(shards(output_folder(folder, "solve", dataset)))
    rows = sorted(solved, key=lambda row: str(row["id"]))
    return characters([bool(row["correct"]) for row in rows if row["answer"] is not None])


def model_figures(folder: Path, first: Path, before: Path) -> Figures:
    """All figures of an evaluation stage: greedy accuracy, fixed pairs, searches with its own judge,
    samples, probes. ``first`` and ``before``: the evaluations of M1 and of M(k-1)."""

    def rows(task: str, dataset: str | None = None) -> list[Row]:
        return list(read_rows(shards(output_folder(folder, task, dataset))))

    solved, hard = rows("solve"), rows("solve", "hard")
    figures = solution_figures(solved) | judge_figures(rows("judge"))
    if hard:
        on_hard = solution_figures(hard)
        figures["hard"] = {
            name: on_hard[name] for name in ("num_problems", "accuracy", "accuracy_se")
        }
    figures["benchmarks"] = benchmark_figures(folder)
    searched, sampled = rows("search"), rows("sample")
    figures |= sample_figures(sampled) | {"sampled": by_number(sampled)}
    figures["search"] = figures_of(searched).summary()
    figures["test_time"] = test_time_figures(solved, searched, sampled)
    figures["probes"] = probe_figures(folder, first, before)
    return figures
