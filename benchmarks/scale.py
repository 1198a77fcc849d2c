"""Many problems, many engines: what coordination costs, and how much memory the driver takes.

    python -m benchmarks.scale               (make bench-scale; about half an hour on two cores)

The real pipeline (Ray Data, actor pool, Parquet shards, finished rows counted) over simulated engines
(benchmarks/simulated.py): a search takes a time drawn from the log-normal fitted to the searches of
benchmarks/search.py at full load. ``coordination`` is the wall time from the first search's start to the
last one's end over that of a scheduler that costs nothing and gives each free place the next problem,
minus one (that scheduler is not the best one: handing out the same problems in another order may by luck
end earlier). Engines start together, when all their processes are there: 64 of them start one after the
other on one machine. ``driver_mb`` is the largest resident memory of the process that runs the pipeline.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from actors.stream import run_rows
from benchmarks.common import RESULTS, facts, store
from benchmarks.simulated import SimulatedWorker, perfect
from psr_ray.config import Config
from psr_ray.config.file import load_config
from psr_ray.data.rows import TASK_SCHEMA, output_folder
from psr_ray.storage.files import Row
from psr_ray.storage.shards import finished_ids, read_rows, shards, write_rows
from psr_ray.telemetry.progress import ProgressWriter

# Problems and engines.
POINTS = [(1_000, 1), (1_000, 8), (10_000, 8), (1_000, 64), (10_000, 64), (100_000, 64)]


class Peak:
    """The largest resident memory of this process while inside, in MB."""

    def __enter__(self) -> Peak:
        self.mb, self.over = 0.0, threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def _watch(self) -> None:
        process = psutil.Process()
        while not self.over.wait(0.2):
            self.mb = max(self.mb, process.memory_info().rss / 1e6)

    def __exit__(self, *_: object) -> None:
        self.over.set()


def write_problems(num: int, path: Path) -> None:
    """The input; written by another process than the one whose memory is measured."""
    rows: list[Row] = [
        dict.fromkeys(TASK_SCHEMA.names)
        | {"task": "search", "id": f"problem-{index}", "problem": "p" * 200}
        for index in range(num)
    ]
    write_rows(path, rows, TASK_SCHEMA)


def measure(
    num: int, engines: int, config: Config, median: float, sigma: float, folder: Path
) -> dict[str, Any]:
    """One point; run in a process of its own, so that its memory is its own."""
    config = config.model_copy(
        update={"engine": config.engine.model_copy(update={"num_engines": (engines, engines)})}
    )
    progress = ProgressWriter(folder, "search", "rows")
    started = time.time()
    with Peak() as peak:
        run_rows(
            [folder / "problems.parquet"], folder, f"{median},{sigma}", config, progress,
            worker=SimulatedWorker,
        )  # fmt: skip
    searches = output_folder(folder, "search")
    assert len(finished_ids(searches)) == num
    times = [tuple(map(float, row["end"].split(","))) for row in read_rows(shards(searches))]
    wall = max(end for _, end, _ in times) - min(start for start, _, _ in times)
    names = [f"problem-{index}" for index in range(num)]
    best = perfect(names, engines * config.engine.max_rows_in_flight, median, sigma)
    return {
        "num_problems": num,
        "num_engines": engines,
        "searches_per_s": round(num / wall, 2),
        "coordination": round(wall / best - 1, 4),
        "driver_mb": round(peak.mb, 1),
        "wall_s": round(wall, 2),
        "start_s": round(min(start for start, _, _ in times) - started, 2),
    }


def main(
    places: Annotated[int, typer.Option(help="searches an engine works on at once")] = 64,
    point: Annotated[list[str] | None, typer.Option(help="PROBLEMSxENGINES")] = None,
) -> None:
    """Measure and store benchmarks/results/scale.json."""
    import ray

    fitted = json.loads((RESULTS / "search.json").read_text())["search_seconds"]
    median, sigma = fitted["median"], fitted["sigma"]
    settings = (
        "engine.num_engines=[1,1]", "engine.rows_per_shard=16", f"engine.max_rows_in_flight={places}",
    )  # fmt: skip
    config = load_config("configs/smoke.yaml", settings)
    points = [tuple(map(int, p.split("x"))) for p in point or ()] or POINTS
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    slots = 2 + max(engines for _, engines in points) + 4
    ray.init(
        address="local", _node_ip_address="127.0.0.1", num_cpus=slots, include_dashboard=False,
        log_to_driver=False,
    )  # fmt: skip
    write, task = (ray.remote(num_cpus=0, max_calls=1)(work) for work in (write_problems, measure))
    found = []
    for num, engines in points:
        with tempfile.TemporaryDirectory() as folder:
            ray.get(write.remote(num, Path(folder) / "problems.parquet"))
            found.append(ray.get(task.remote(num, engines, config, median, sigma, Path(folder))))
        print(found[-1], flush=True)
    service = {"distribution": "log-normal", "median_s": median, "sigma": sigma}
    stored = RESULTS / "scale.json"
    if (
        point and stored.exists()
    ):  # some points again: the others stay, if they are of the same kind
        before = json.loads(stored.read_text())
        if (before["service_time"], before["places_an_engine"]) == (service, places):
            again = {(p["num_problems"], p["num_engines"]) for p in found}
            old = [
                p for p in before["points"] if (p["num_problems"], p["num_engines"]) not in again
            ]
            found = sorted(old + found, key=lambda p: (p["num_engines"], p["num_problems"]))
    most = max(p["num_engines"] for p in found)
    memory = [p["driver_mb"] for p in found if p["num_engines"] == most]
    result = {
        "metric": "share of time that coordination adds to simulated searches, at the largest point",
        "ratio": dict.fromkeys(("median", "min", "max"), found[-1]["coordination"]),
        "driver_growth_mb": round(max(memory) - min(memory), 1),
        "service_time": service,
        "places_an_engine": places,
        "points": found,
        **facts("ray"),
    }
    print(f"stored: {store('scale', result)}")
    ray.shutdown()


if __name__ == "__main__":
    typer.run(main)
