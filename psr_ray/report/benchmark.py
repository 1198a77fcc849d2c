"""One model on one benchmark: accuracy with its interval, how it was measured, doubtful gradings."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from pathlib import Path
from statistics import NormalDist

from psr_ray.answers.normal import normal
from psr_ray.config import Config
from psr_ray.data.rows import Row
from psr_ray.method.prompts import template_folder
from psr_ray.report.evaluation import Figures, solution_figures
from psr_ray.report.summary import versions
from psr_ray.storage.files import write_text

FIGURES = "figures.json"
DOUBTFUL = "disagreements.jsonl"
# Share of common characters from which two answers look equal to a reader.
ALIKE = 0.8


def interval(share: float, num: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share of ``num`` independent rows; sound near 0 and 1 and for few rows."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    return max(0.0, middle - half), min(1.0, middle + half)


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


def prompt_digest(config: Config) -> str:
    """What the prompts say: a hash of the template that asks for solutions, and of how it is wrapped."""
    template = template_folder(config.prompts.templates) / "solve.jinja"
    text = json.dumps([template.read_text(encoding="utf-8"), config.prompts.chat_template])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_benchmark(
    folder: Path, rows: list[Row], config: Config, model: str, name: str
) -> Figures:
    """Store the figures of a model on a benchmark beside its solutions, and the doubtful gradings."""
    figures = solution_figures(rows)
    accuracy, disagreements = figures["accuracy"], doubtful(rows)
    figures |= {
        "benchmark": name,
        "model": model,
        "accuracy_ci95": None if accuracy is None else interval(accuracy, figures["num_problems"]),
        "num_doubtful": len(disagreements),
        "prompt": prompt_digest(config),
        "max_tokens": config.evaluation.max_tokens,
        "versions": versions(),
    }
    write_text(folder / FIGURES, json.dumps(figures, indent=1))
    write_text(folder / DOUBTFUL, "".join(json.dumps(row) + "\n" for row in disagreements))
    return figures


def benchmark_lines(figures: Figures) -> str:
    """The figures of a benchmark for a person."""
    accuracy, num = figures["accuracy"], figures["num_problems"]
    low, high = figures["accuracy_ci95"]
    lines = [
        f"accuracy {accuracy:.1%} (95 % interval {low:.1%} to {high:.1%}) on {num} problems, "
        f"{figures['num_failed']} failed rows, {figures['unboxed_share']:.1%} without a boxed answer"
    ]
    if figures["num_doubtful"]:
        lines.append(f"{figures['num_doubtful']} marked wrong though they look equal: {DOUBTFUL}")
    return "\n".join(lines)
