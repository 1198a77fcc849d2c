"""Faults with real engines and real processes: each ends with all rows, none lost, none twice.

``make faults`` runs these and prints what the ``record`` fixture gathered (docs/reliability.md).
"""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
import ray
from conftest import ROOT, TINY

from actors.pipeline import result_of
from actors.searcher import EngineWorker
from actors.stream import run_rows
from benchmarks.heads import children
from psr_ray.config.file import load_config
from psr_ray.data.rows import TASK_SCHEMA, problem_row
from psr_ray.embedded.seed import ift_problems
from psr_ray.errors import PsrError
from psr_ray.storage.folders import disk_checked
from psr_ray.storage.shards import finished_ids, read_rows, shards, write_rows
from psr_ray.telemetry.progress import ProgressWriter

pytestmark = [pytest.mark.slow, pytest.mark.faults]

MODEL = str(TINY)


def stage(folder, num, task="search", *settings):
    """A stage's input and settings: ``num`` problems, and how to do them with a worker class."""
    problems = list(ift_problems(num, seed=11))
    write_rows(folder / "problems.parquet", [problem_row(task, p) for p in problems], TASK_SCHEMA)
    config = load_config(
        ROOT / "configs" / "smoke.yaml",
        ("engine.max_rows_in_flight=8", "engine.rows_per_shard=4", "search.max_steps=3", *settings),
    )
    progress = ProgressWriter(folder, task, "rows")

    def do(worker=EngineWorker):
        run_rows([folder / "problems.parquet"], folder, MODEL, config, progress, worker=worker)

    return [p.id for p in problems], do


def ids_in(folder):
    return [row["id"] for row in read_rows(shards(folder))]


def engines():
    """Processes of engine workers of this Ray."""
    return children(os.getpid(), "EngineWorker")


class Saboteur(threading.Thread):
    """Does harm each time so many more rows are finished; ``harmed_at`` are the times."""

    def __init__(self, folder, harm, at):
        super().__init__(daemon=True)
        self.folder, self.harm, self.at, self.harmed_at = folder, harm, at, []

    def run(self):
        for num in self.at:
            while len(finished_ids(self.folder)) < num:
                time.sleep(0.05)
            self.harm()
            self.harmed_at.append(time.time())


def kill_an_engine():
    os.kill(engines()[0].pid, signal.SIGKILL)


@pytest.mark.long
def test_an_engine_killed_in_mid_search_and_again(ray_up, tmp_path, record):
    expected, do = stage(tmp_path, 48)
    saboteur = Saboteur(tmp_path / "search", kill_an_engine, at=(4, 20))
    saboteur.start()
    do()
    assert len(saboteur.harmed_at) == 2
    record(
        "engine process killed",
        2,
        expected,
        ids_in(tmp_path / "search"),
        time.time() - saboteur.harmed_at[-1],
    )


def poisoned(poison, how):
    """A worker whose engine a problem hangs or kills."""

    class PoisonedWorker(EngineWorker):
        def _task(self, desk, row):
            task = super()._task(desk, row)
            return self.sick(task) if row["id"] == poison else task

        def sick(self, task):
            completions = yield next(task)  # in flight in the engine, like others
            self.engine._engines["policy"].step = self.hang if how == "hang" else self.die
            yield task.send(completions)

        def hang(self):
            time.sleep(10**6)

        def die(self):
            raise MemoryError("planted")

    return PoisonedWorker


@pytest.mark.long
@pytest.mark.parametrize("how", ["hang", "die"])
def test_a_problem_that_kills_its_engine_twice_fails(ray_up, tmp_path, record, how):
    expected, do = stage(tmp_path, 24, "search", "engine.hang_s=8")
    poison = expected[7]
    started = time.time()
    do(poisoned(poison, how))
    rows = {row["id"]: row["error"] for row in read_rows(shards(tmp_path / "search"))}
    failed = {name: error for name, error in rows.items() if error is not None}
    assert list(failed) == [poison]
    reason = {"hang": "no token for 8 s", "die": "MemoryError: planted"}[how]
    assert failed[poison].count(reason) == 2
    fault = {"hang": "an engine hangs on a problem", "die": "an engine dies of a problem"}[how]
    record(fault, 2, expected, ids_in(tmp_path / "search"), time.time() - started)


@pytest.mark.long
def test_engines_that_only_die_end_the_stage_with_one_line(ray_up, tmp_path):
    class Dying(EngineWorker):
        def _task(self, _desk, _row):
            os.kill(os.getpid(), signal.SIGKILL)

    expected, do = stage(tmp_path, 4, "solve")
    with pytest.raises(PsrError, match=r"finished nothing \(their processes were killed"):
        do(Dying)
    do()  # the cause is fixed
    assert sorted(ids_in(tmp_path / "solve")) == sorted(expected)


@pytest.mark.parametrize(
    ("error", "said"),
    [(OSError(errno.ENOSPC, "planted"), "No space left"), (PsrError("planted"), "planted")],
)
def test_what_a_worker_raises_reaches_the_command_as_it_is(ray_up, tmp_path, error, said):
    class Failing(EngineWorker):
        def do(self, _stage, _batch):
            raise error

    _, do = stage(tmp_path, 4, "solve")
    with pytest.raises(PsrError, match=said), disk_checked(tmp_path):
        result_of(ray.remote(num_cpus=0)(do).remote(Failing))


@pytest.mark.parametrize("loaded", [True, False])
def test_an_engines_own_process_ends_with_its_worker(tmp_path, loaded):
    """(On GPU vLLM's EngineCore, here any child: a killed process ends none itself.)"""
    script = (
        "import subprocess, time; from psr_ray.inference.guard import Guard;"
        "guard = Guard(); child = subprocess.Popen(['sleep', '1000'], close_fds=False);"
        f"{loaded} and guard.all_there();"
        "print(child.pid, flush=True); time.sleep(1000)"
    )
    worker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(worker.stdout.readline()))
    time.sleep(2)
    assert child.is_running()
    worker.kill()
    worker.wait()
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running()


def test_a_guard_of_nothing_goes():
    script = (
        "from psr_ray.inference.guard import Guard; guard = Guard(); guard.all_there();"
        "print(guard._process.wait(20))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"0\n"


def test_a_model_that_cannot_be_loaded_is_one_line(ray_up, tmp_path):
    _, do = stage(
        tmp_path,
        4,
        "solve",
        "model.max_length=100000",
        "sft.tokens_per_pass=100000",
        "dpo.tokens_per_pass=100000",
    )
    with pytest.raises(PsrError, match="no engine could be started for"):
        do()


@pytest.mark.long
def test_a_node_is_taken_away_in_mid_search_and_another_joins(tmp_path, record):
    expected, _ = stage(tmp_path, 32)
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "two_nodes.py"), str(tmp_path), MODEL],
        capture_output=True, text=True, cwd=ROOT, check=False, timeout=500,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    seconds = float(re.search(r"recovered in ([\d.]+) s", done.stdout)[1])
    record("worker node removed, another joins", 1, expected, ids_in(tmp_path / "search"), seconds)
