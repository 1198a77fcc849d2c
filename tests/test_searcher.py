"""The real pipeline over simulated engines: no barrier between batches, no row twice, growing pools."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pyarrow as pa
import pytest
import ray
from conftest import ROOT

from actors.desk import StageWork
from actors.ledger import EngineLedger
from actors.pool import engine_pool
from actors.rows import engine_stage
from actors.stream import run_rows
from benchmarks.heads import children
from benchmarks.simulated import SimulatedWorker, perfect
from psr_ray.config.file import load_config
from psr_ray.data.rows import TASK_SCHEMA
from psr_ray.runs import Stage
from psr_ray.storage.shards import read_rows, shards, write_rows
from psr_ray.telemetry.progress import ProgressWriter

pytestmark = pytest.mark.slow

MEDIAN, SIGMA = 0.15, 1.2  # one search in a hundred takes sixteen times the median


class Counted(ProgressWriter):
    """Remembers when rows were reported."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.times = []

    def advance(self, rows, num_tokens=0):
        self.times.append(time.monotonic())
        super().advance(rows, num_tokens)


def run(folder, num, *settings):
    """Search ``num`` problems; start, end and process of each, by its name."""
    rows = [
        dict.fromkeys(TASK_SCHEMA.names) | {"task": "search", "id": f"p{i}"} for i in range(num)
    ]
    write_rows(folder / "problems.parquet", rows, TASK_SCHEMA)
    config = load_config(ROOT / "configs" / "smoke.yaml", settings)
    progress = Counted(folder, "search", "rows")
    model = f"{MEDIAN},{SIGMA}"
    run_rows([folder / "problems.parquet"], folder, model, config, progress, worker=SimulatedWorker)
    found = list(read_rows(shards(folder / "search")))
    assert sorted(row["id"] for row in found) == sorted(row["id"] for row in rows)
    # a stage of few rows is not silent up to its end
    assert progress.done == num
    assert progress.times[-1] - progress.times[0] > 2
    return {row["id"]: [float(part) for part in row["end"].split(",")] for row in found}


def test_an_interrupted_search_leaves_no_engine_where_ray_goes_on(ray_up, tmp_path):
    config = load_config(ROOT / "configs" / "smoke.yaml", ["engine.layout=restart"])
    rows = [dict.fromkeys(TASK_SCHEMA.names) | {"task": "search", "id": f"p{i}"} for i in range(99)]
    free, engines = ray.available_resources()["CPU"], []

    def interrupt(_):
        if list(tmp_path.glob("out/engines/batch-*")):
            engines.extend(children(os.getpid(), "SimulatedWorker"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine_stage(
            config, Stage("search", tmp_path / "out", "key"), rows, "search", "60,0.1",
            worker=SimulatedWorker, watch=interrupt,
        )  # fmt: skip
    assert engines
    assert psutil.wait_procs(engines, timeout=20)[1] == []
    until = time.monotonic() + 20
    while ray.available_resources().get("CPU") != free:
        assert time.monotonic() < until
        time.sleep(0.2)


def test_an_engine_stays_full_whatever_its_batches(ray_up, tmp_path):
    places = 4
    times = run(
        tmp_path, 160, "engine.num_engines=[1,1]", f"engine.max_rows_in_flight={places}",
        "engine.rows_per_shard=8",
    )  # fmt: skip
    starts = sorted((start, 1) for start, _, _ in times.values())
    ends = sorted((end, -1) for _, end, _ in times.values())
    num_open = most = 0
    for _, change in sorted(starts + ends, key=lambda event: (event[0], event[1])):
        num_open += change
        most = max(most, num_open)
    assert most == places
    wall = ends[-1][0] - starts[0][0]
    # a barrier after each batch, or each block, costs a factor of two here
    assert wall < 1.3 * perfect(times, places, MEDIAN, SIGMA)


def test_a_pool_grows_while_there_is_work(ray_up, tmp_path):
    times = run(
        tmp_path, 200, "engine.num_engines=[1,2]", "engine.max_rows_in_flight=2",
        "engine.rows_per_shard=4",
    )  # fmt: skip
    assert len({process for _, _, process in times.values()}) == 2


@pytest.mark.parametrize("is_killed", [False, True])
def test_two_stages_share_an_engine_and_both_survive_its_death(ray_up, tmp_path, is_killed):
    config = load_config(ROOT / "configs" / "smoke.yaml", ["engine.rows_per_shard=4"])

    def do(name, pool):
        folder, inputs = tmp_path / name, tmp_path / f"{name}.parquet"
        ids = [f"{name}-{i}" for i in range(60)]
        tasks = [dict.fromkeys(TASK_SCHEMA.names) | {"task": "search", "id": i} for i in ids]
        write_rows(inputs, tasks, TASK_SCHEMA)
        progress = ProgressWriter(tmp_path, name, "rows")
        run_rows(
            [inputs], folder, "0.5,0.1", config, progress,
            worker=SimulatedWorker, pool=pool, attempt="driver",
        )  # fmt: skip
        found = list(read_rows(shards(folder / "search")))
        assert sorted(row["id"] for row in found) == sorted(ids)
        return {row["end"].split(",")[2] for row in found}

    with engine_pool("test") as pool, ThreadPoolExecutor() as threads:
        both = [threads.submit(do, name, pool) for name in ("evaluate", "search")]
        if is_killed:
            ledger = tmp_path / "evaluate" / "engines"
            searched = tmp_path / "search"
            while not (list(ledger.glob("batch-*")) and list(searched.glob("*/part-*"))):
                assert not any(future.done() for future in both)
                time.sleep(0.05)
            [engine] = children(os.getpid(), "SimulatedWorker")
            os.kill(engine.pid, signal.SIGKILL)
        processes = [future.result() for future in both]
        each = [pool.starts.remote(str(tmp_path / name)) for name in ("evaluate", "search")]
        num_started = sum(ray.get(each))
    assert num_started == 1 + is_killed
    if not is_killed:
        assert processes[0] == processes[1]
        assert len(processes[0]) == 1


def test_suspects_run_alone_whatever_their_stage_and_a_lost_client_blames_no_row(
    tmp_path, monkeypatch
):
    config = load_config(ROOT / "configs" / "smoke.yaml")
    worker, in_flight = SimulatedWorker(), []
    for name in ("evaluate", "search"):
        EngineLedger(tmp_path / name).open()
        worker.open(StageWork("0.3,0.001", config, tmp_path / name, attempt="driver"))
        EngineLedger(tmp_path / name).died("planted", [("search", name)])
    submit = worker.engine.submit

    def watched(task, name=None):
        in_flight.append([future.done() for _, future in flying])
        future = submit(task, name)
        flying.append((name, future))
        return future

    flying = []
    worker.engine.submit = watched

    def do(name):
        row = dict.fromkeys(TASK_SCHEMA.names) | {"task": "search", "id": name}
        worker.do(str(tmp_path / name), pa.Table.from_pylist([row], schema=TASK_SCHEMA))

    with ThreadPoolExecutor() as threads:
        list(threads.map(do, ("evaluate", "search")))
    assert sorted(in_flight, key=len) == [[], [True]]  # one after the other

    class Ended(Exception):
        pass

    def end():
        raise Ended

    monkeypatch.setattr("actors.searcher.end_this_process", end)
    worker.engine.suspects = lambda: [(str(tmp_path / "search"), ("search", "open"))]
    worker.desks[str(tmp_path / "search")].num_open = 1
    with pytest.raises(Ended):  # another driver
        worker.open(StageWork("0.3,0.001", config, tmp_path / "evaluate", attempt="other"))
    assert ("search", "open") not in EngineLedger(tmp_path / "search").suspects()


def test_an_engine_that_never_answers_a_reload_is_replaced(ray_up, tmp_path):
    class HangsOnReload(SimulatedWorker):  # here, so that its code travels
        """Never loads a second model."""

        def _load(self, desk):
            if self.engine is not None:
                time.sleep(1000)
            super()._load(desk)

    rows = [dict.fromkeys(TASK_SCHEMA.names) | {"task": "search", "id": f"p{i}"} for i in range(4)]
    write_rows(tmp_path / "problems.parquet", rows, TASK_SCHEMA)
    config = load_config(ROOT / "configs" / "smoke.yaml", ["engine.hang_s=2"])
    with engine_pool("test") as pool:
        used = []
        for name in ("search-1", "search-2"):
            folder, model = tmp_path / name, "0.01,0.1"
            folder.mkdir()
            progress = ProgressWriter(folder, name, "rows")
            inputs = [tmp_path / "problems.parquet"]
            used.append(
                run_rows(inputs, folder, model, config, progress, worker=HangsOnReload, pool=pool)
            )
            assert len(list(read_rows(shards(folder / "search")))) == 4
    assert [each["engine_starts"] for each in used] == [1, 1]
    assert used[1]["num_engines"] == 1


def test_an_engines_process_has_its_environment_before_it_loads_anything(ray_up, tmp_path):
    """Ray would have one thread: the core that `colocated` reserves of two."""

    class Telling(SimulatedWorker):  # here, so that its code travels
        def num_threads(self):
            import torch

            return torch.get_num_threads()

    config = load_config(ROOT / "configs" / "smoke.yaml", ["engine.cpus_per_engine=2"])
    assert config.engine.layout == "colocated"
    with engine_pool("test") as pool:
        lent = pool.lend.remote(StageWork("0.1,0.1", config, tmp_path), "client", Telling, None)
        _, engine, _ = ray.get(lent)
        assert ray.get(engine.num_threads.remote(), timeout=60) == 2
