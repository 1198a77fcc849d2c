"""Many problems, many engines: what coordination costs, how soon engines work, how much memory it takes.

    python -m benchmarks.scale               (make bench-scale; an hour and a half on two cores)

The real pipeline (Ray Data, actor pool, Parquet shards, finished rows counted) over simulated engines
(benchmarks/simulated.py): a search takes a time drawn from the log-normal fitted to the searches of
benchmarks/search.py at full load.

``points``: ``coordination`` is the wall time from the first search's start to the last one's end over
that of a scheduler that costs nothing and gives each free place the next problem, minus one (that
scheduler is not the best one: handing out the same problems in another order may by luck end earlier).
Engines start together, when all their processes are there: hundreds of them start one after the other
on one machine. ``driver_mb`` is the largest memory of the process that runs the pipeline, without
Ray's object store.

``ramps``: a pool that grows from one engine, and engines that work as soon as they are there; beside it
``plain``, ``map_batches`` over actors that do nothing else, without our pool, shards and counts.
``idle`` is the share of places that stand empty from when all engines work to the last search's start.

An engine is two processes (Ray Data's actor and the engine's) of some 120 MB, each of which takes more
than half a per cent of a core when it does nothing: two cores carry 64 engines, not hundreds.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import psutil
import typer

from actors.stream import run_rows
from benchmarks.common import RESULTS, facts, store
from benchmarks.simulated import SimulatedWorker, perfect, service_time
from psr_ray.config import Config
from psr_ray.config.file import load_config
from psr_ray.data.rows import TASK_SCHEMA, output_folder
from psr_ray.storage.files import Row
from psr_ray.storage.shards import finished_ids, read_rows, shards, write_rows
from psr_ray.telemetry.progress import ProgressWriter


class Size(NamedTuple):
    """``places``: searches an engine works on at once; ``slower``: how many times as long they take."""

    num_problems: int
    num_engines: int
    places: int
    slower: int = 1


POINTS = [Size(1_000, 8, 64), Size(1_000, 64, 64), Size(20_000, 64, 64, 4), Size(100_000, 64, 64)]
POINTS += [Size(1_000_000, 8, 4096)]
RAMPS = [Size(16_000, 64, 64)]


class Peak:
    """The largest memory of its own of a process while inside, in MB, and the seconds it computed.

    Pages of Ray's object store, which lies in shared memory, are not its own, though the system counts
    those as unshared that no other process has looked at."""

    def __enter__(self) -> Peak:
        self.mb, self.over = 0.0, threading.Event()
        self.began = time.process_time()
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def _watch(self) -> None:
        process = psutil.Process()
        while not self.over.wait(0.5):
            maps = process.memory_maps(grouped=False)
            own = (m.private_clean + m.private_dirty for m in maps if m.path[:9] != "/dev/shm/")
            self.mb = max(self.mb, sum(own) / 1e6)

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.cpu_s = time.process_time() - self.began


def write_problems(num: int, path: Path) -> None:
    """The input; written by another process than the one whose memory is measured."""
    rows: list[Row] = [
        dict.fromkeys(TASK_SCHEMA.names)
        | {"task": "search", "id": f"problem-{index}", "problem": "p" * 200}
        for index in range(num)
    ]
    write_rows(path, rows, TASK_SCHEMA)


def ours(
    size: Size, least: int, config: Config, median: float, sigma: float, folder: Path
) -> dict[str, Any]:
    """A stage; run in a process of its own, so that its memory is its own."""
    num, most, places, _ = size
    changes = {"num_engines": (least, most), "max_rows_in_flight": places}
    engine = config.engine.model_copy(update=changes)
    config = config.model_copy(update={"engine": engine})
    progress = ProgressWriter(folder, "search", "rows")
    began = time.time()
    with Peak() as peak:
        inputs = [folder / "problems.parquet"]
        model = f"{median},{sigma}"
        run_rows(inputs, folder, model, config, progress, worker=SimulatedWorker)
    searches = output_folder(folder, "search")
    assert len(finished_ids(searches)) == num
    ends = (row["end"].split(",") for row in read_rows(shards(searches)))
    found = [(float(start), float(end), engine) for start, end, engine in ends]
    return figures(began, found, peak, places)


def figures(
    began: float, found: list[tuple[float, float, str]], peak: Peak, places: int
) -> dict[str, Any]:
    """Of searches with their start, end and engine."""
    first: dict[str, float] = {}
    for start, _, engine in found:
        first[engine] = min(start, first.get(engine, start))
    wall = max(end for _, end, _ in found) - min(first.values())
    # from when all engines work to the last search's start
    since, until = max(first.values()), max(start for start, _, _ in found)
    worked = sum(max(0.0, min(end, until) - max(start, since)) for start, end, _ in found)
    whole = (until - since) * places * len(first)
    return {
        "engines_used": len(first),
        "start_s": round(min(first.values()) - began, 2),
        "first_row_s": round(min(end for _, end, _ in found) - began, 2),
        "all_engines_s": round(max(first.values()) - began, 2),
        "wall_s": round(wall, 2),
        "idle": round(1 - worked / whole, 4) if until > since + 10 else None,
        "searches_per_s": round(len(found) / wall, 2),
        "driver_mb": round(peak.mb, 1),
        "driver_cpu_s": round(peak.cpu_s, 1),
    }


class PlainWorker:
    """A batch's searches, all at once; the next batch may come meanwhile."""

    def __init__(self, places: int, median: float, sigma: float) -> None:
        self.threads = ThreadPoolExecutor(places)
        self.seconds = partial(service_time, median=median, sigma=sigma)

    def _search(self, name: int) -> tuple[float, float]:
        start = time.time()
        time.sleep(self.seconds(f"problem-{name}"))
        return start, time.time()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        times = list(self.threads.map(self._search, batch["id"].tolist()))
        starts, ends = map(np.array, zip(*times, strict=True))
        return {"start": starts, "end": ends, "engine": np.full(len(times), os.getpid())}


def plain(size: Size, median: float, sigma: float) -> dict[str, Any]:
    """The same searches by Ray Data alone."""
    num, engines, places, _ = size
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    per_batch = places // 4
    began = time.time()
    with Peak() as peak:
        done = ray.data.range(num, override_num_blocks=-(-num // per_batch)).map_batches(
            PlainWorker,
            fn_constructor_args=(places, median, sigma),
            batch_size=per_batch,
            compute=ray.data.ActorPoolStrategy(
                min_size=1, max_size=engines, initial_size=engines,
                max_tasks_in_flight_per_actor=8, max_concurrent_calls_per_actor=4,
                enable_true_multi_threading=True,
            ),
            num_cpus=0,
        )  # fmt: skip
        rows = [
            row
            for batch in done.iter_batches(batch_size=None)
            for row in zip(*batch.values(), strict=True)
        ]
    found = [(float(start), float(end), str(pid)) for start, end, pid in rows]
    return figures(began, found, peak, places)


def sizes(said: list[str] | None) -> list[Size]:
    """Of points as the command line has them."""
    return [Size(*map(int, point.split("x"))) for point in said or []]


def main(
    point: Annotated[
        list[str] | None, typer.Option(help="PROBLEMSxENGINESxPLACES[xSLOWER]")
    ] = None,
    ramp: Annotated[list[str] | None, typer.Option(help="PROBLEMSxENGINESxPLACES[xSLOWER]")] = None,
) -> None:
    """Store benchmarks/results/scale.json: all points and ramps, or those asked for in their places."""
    import ray

    fitted = json.loads((RESULTS / "search.json").read_text())["search_seconds"]
    median, sigma = fitted["median"], fitted["sigma"]
    service = {"distribution": "log-normal", "median_s": median, "sigma": sigma}
    config = load_config("configs/smoke.yaml", ["engine.rows_per_shard=16"])
    points, ramps = sizes(point), sizes(ramp)
    if not points + ramps:
        points, ramps = POINTS, RAMPS
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")  # most of it may be in swap
    slots = 2 + max(size.num_engines for size in points + ramps) + 4
    ray.init(
        address="local", _node_ip_address="127.0.0.1", num_cpus=slots, include_dashboard=False,
        log_to_driver=False,
    )  # fmt: skip
    alone: Any = ray.remote(num_cpus=0, max_calls=1)

    def measure(size: Size, least: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            ray.get(alone(write_problems).remote(size.num_problems, folder / "problems.parquet"))
            task = alone(ours).remote(size, least, config, median * size.slower, sigma, folder)
            found: dict[str, Any] = ray.get(task)
            return found

    for size in points:
        found = measure(size, size.num_engines)
        names = (f"problem-{index}" for index in range(size.num_problems))
        best = perfect(names, size.num_engines * size.places, median * size.slower, sigma)
        keep(
            "points", size, found | {"coordination": round(found["wall_s"] / best - 1, 4)}, service
        )
    for size in ramps:
        found = measure(size, 1)
        beside = ray.get(alone(plain).remote(size, median * size.slower, sigma))
        keep("ramps", size, found | {"plain": beside}, service)
    ray.shutdown()


def keep(part: str, size: Size, found: dict[str, Any], service: dict[str, Any]) -> None:
    """Put figures among those stored, or in their place where those are of another service time."""
    measured = facts("ray")
    row = size._asdict() | found | {"commit": measured["commit"]}
    print(part, row, flush=True)
    stored = RESULTS / "scale.json"
    before = json.loads(stored.read_text()) if stored.exists() else {}
    if before.get("service_time") != service:
        before = {}
    parts = {name: before.get(name, []) for name in ("points", "ramps")}
    others = [old for old in parts[part] if {**old, **size._asdict()} != old]
    parts[part] = sorted([*others, row], key=lambda row: (row["num_engines"], row["num_problems"]))
    result: dict[str, Any] = {"service_time": service} | parts
    if parts["points"]:
        largest = parts["points"][-1]["coordination"]
        result |= {
            "metric": "share of time that coordination adds to simulated searches, at the largest point",
            "ratio": dict.fromkeys(("median", "min", "max"), largest),
        }
    store("scale", result | measured)


if __name__ == "__main__":
    typer.run(main)
