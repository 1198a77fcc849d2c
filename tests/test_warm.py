"""Engines and training workers that are kept: the same results as new ones, and fewer starts."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT
from trainings import train

from benchmarks.heads import children
from psr_ray.storage.shards import read_rows, shards

pytestmark = pytest.mark.slow

WARM = ["engine.layout=colocated", "engine.seeded_sampling=true"]


def run(folder, *settings):
    command = [sys.executable, "-m", "psr_ray.cli", "run", "--config", "configs/smoke.yaml"]
    for setting in (f"runs_dir={folder}", "data.heldout.num=8", *settings):
        command += ["--set", setting]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def rows_of(folder, stage, task):
    found = {row["id"]: row for row in read_rows(shards(folder / "smoke" / stage / task))}
    for row in found.values():
        row.pop("num_cached_tokens", None)
    return found


def finished(process):
    said = process.communicate(timeout=500)[0]
    assert process.returncode == 0, said[-3000:]


def summary(folder):
    return json.loads((folder / "smoke" / "summary.json").read_text())


@pytest.mark.faults
@pytest.mark.long
@pytest.mark.parametrize("layout", ["colocated", "apart"])
def test_kept_engines_make_the_same_rows_as_new_ones(tmp_path, layout):
    for each in ("restart", layout):
        finished(run(tmp_path / each, *WARM, f"engine.layout={each}"))
    for stage, task in [("evaluate-M1", "solve"), ("search-1", "search"), ("evaluate-M2", "solve")]:
        old, new = (rows_of(tmp_path / each, stage, task) for each in ("restart", layout))
        assert old == new, (stage, task)
    assert summary(tmp_path / layout)["engine_starts"] == 1
    assert summary(tmp_path / "restart")["engine_starts"] == 3  # M0, M1, M2


@pytest.mark.faults
@pytest.mark.long
@pytest.mark.parametrize("when", ["evaluate-M0", "search-1", "evaluate-M2"])
def test_an_engine_that_is_killed_as_it_loads_is_replaced_and_nothing_is_lost(
    tmp_path, record, when
):
    """The run's first engine, and a kept one that is about to load another model in place."""
    process = run(tmp_path, *WARM)
    stage = tmp_path / "smoke" / when / "engines"
    started = []

    def kill():
        engines = []
        while not engines:
            time.sleep(0.02)
            if (stage / "command.json").exists():  # it is about to load this stage's model
                engines = children(process.pid, "EngineWorker")
        engine = engines[0]
        os.kill(engine.pid, signal.SIGKILL)
        started.append(time.time())

    saboteur = threading.Thread(target=kill, daemon=True)
    saboteur.start()
    finished(process)
    assert started
    assert summary(tmp_path)["engine_starts"] == 2
    held_out = list(rows_of(tmp_path, "evaluate-M0", "solve"))
    found, expected = list(rows_of(tmp_path, "evaluate-M2", "solve")), held_out
    if when == "search-1":  # beside the evaluation of M1
        problems = tmp_path / "smoke" / "data" / "search-1.parquet"
        expected = [row["id"] for row in read_rows([problems])] + held_out
        found = list(rows_of(tmp_path, "search-1", "search"))
        found += rows_of(tmp_path, "evaluate-M1", "solve")
    record(f"engine killed as it loads for {when}", 1, expected, found, time.time() - started[0])


@pytest.mark.faults
@pytest.mark.long
def test_a_kept_group_trains_as_new_ones_do(ray_up, preferences, tmp_path):
    from actors.training_group import training_group

    def losses(metrics):
        return [line.get("sft_loss", line.get("dpo_loss")) for line in metrics]

    def weights(model):
        return {name: value.clone() for name, value in model.state_dict().items()}

    with training_group(keep=True) as group:
        workers = []
        kept = []
        for kind in ("sft", "dpo", "sft"):
            out = tmp_path / f"kept-{len(kept)}"
            model, metrics = train(preferences, out, kind, group=group)
            kept.append((weights(model), losses(metrics)))
            workers.append({worker.pid for worker in children(os.getpid(), "RayTrainWorker")})
    assert workers[0]
    assert workers[0] == workers[1] == workers[2]
    for place, kind in ((0, "sft"), (1, "dpo")):
        model, metrics = train(preferences, tmp_path / f"new-{kind}", kind)
        assert losses(metrics) == pytest.approx(kept[place][1], abs=1e-5)
        for name, value in weights(model).items():
            assert (value - kept[place][0][name]).abs().max() < 1e-5, name
    assert kept[0][1] == pytest.approx(kept[2][1], abs=1e-5)
