"""Training workers that are killed: training resumes from its last checkpoint, and from no other."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
import torch
from hostile import Payload
from trainings import difference, train

from actors.training_group import FAILED_STARTS, training_group
from benchmarks.heads import children
from psr_ray.errors import PsrError

pytestmark = pytest.mark.slow


class Killer(threading.Thread):
    """Kills a training worker once a folder holds a checkpoint; ``step`` is that one's, ``lines`` are
    the metrics up to it."""

    def __init__(self, out):
        super().__init__(daemon=True)
        self.out, self.step = out, None

    def run(self):
        latest = self.out / "checkpoints" / "latest.json"
        while not latest.exists():
            time.sleep(0.01)
        self.step = json.loads(latest.read_text())["step"]
        self.lines = (self.out / "metrics.jsonl").read_text().splitlines()[: self.step]
        os.kill(training_workers()[-1].pid, signal.SIGKILL)
        self.killed_at = time.time()


def training_workers():
    """Processes of this Ray's training workers only."""
    return children(os.getpid(), "RayTrainWorker")


@pytest.mark.faults
@pytest.mark.long
@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("as they start", "2 training workers could not be started"),
        ("as they train", "workers were killed 2 times without a checkpoint"),
    ],
)
def test_a_training_whose_workers_only_die_is_one_line(ray_up, preferences, tmp_path, when, said):
    over, metrics = threading.Event(), tmp_path / "out" / "metrics.jsonl"

    def kill():
        seen = 0
        while not over.wait(0.05):
            trains = metrics.exists() and metrics.stat().st_mtime_ns > seen
            if when == "as they start" or trains:
                for process in training_workers()[-1:]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
            seen = metrics.stat().st_mtime_ns + 10**9 if trains else seen

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        with (
            pytest.raises(PsrError, match=said),
            training_group(keep=False, runtime_env={"env_vars": {FAILED_STARTS: "1"}}) as group,
        ):
            train(preferences, tmp_path / "out", "sft", "sft.num_workers=2", group=group)
    finally:
        over.set()
        killer.join()


@pytest.mark.faults
@pytest.mark.long
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_steps_with_a_kill_are_the_steps_without(ray_up, preferences, tmp_path, zero, record):
    settings = [
        "dpo.num_workers=2", f"dpo.zero_stage={zero}", "dpo.checkpoint_steps=3", "dpo.num_epochs=4",
        "dpo.batch_size=4", "dpo.solutions_per_batch=4",
    ]  # fmt: skip
    whole, steps = train(preferences, tmp_path / "whole", "dpo", *settings)
    killer = Killer(tmp_path / "killed")
    killer.start()
    model, others = train(preferences, tmp_path / "killed", "dpo", *settings)
    assert killer.step is not None
    assert killer.step < len(steps)
    expected = list(range(1, len(steps) + 1))
    assert [s["step"] for s in steps] == expected
    fault = f"training worker killed, ZeRO {zero}, 2 workers"
    record(fault, 1, expected, [s["step"] for s in others], time.time() - killer.killed_at)
    lines = (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()
    assert (
        lines[: killer.step] == killer.lines
    )  # those steps (their speeds too) were not taken again
    for a, b in zip(whole.parameters(), model.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.faults
@pytest.mark.long
def test_a_training_that_ended_before_its_manifest_is_done_again_from_its_checkpoint(
    ray_up, preferences, tmp_path
):
    settings = ("sft.num_workers=1", "sft.checkpoint_steps=2", "sft.num_epochs=2")
    out = tmp_path / "out"
    first, steps = train(preferences, out, "sft", *settings)
    model_file = out / "model" / "model.safetensors"
    before = model_file.stat().st_mtime_ns
    again, others = train(preferences, out, "sft", *settings)
    assert model_file.stat().st_mtime_ns > before
    assert (
        [s["step"] for s in others] == [s["step"] for s in steps] == list(range(1, len(steps) + 1))
    )
    rates = [[step["tokens_per_s"] for step in run] for run in (steps, others)]
    changed = [a != b for a, b in zip(*rates, strict=True)]
    kept = json.loads((out / "checkpoints" / "latest.json").read_text())["step"]
    assert 0 < kept < len(steps)
    assert changed == [number > kept for number in range(1, len(steps) + 1)]
    assert difference(first, again) < 1e-6

    with pytest.raises(PsrError, match=r"another training \(batches \w+, now \w+\)"):
        train(preferences, out, "sft", *settings, "sft.ift_per_batch=0.5")
    [states] = (out / "checkpoints").glob("step-*/mp_rank_00_model_states.pt")
    torch.save({"module": Payload(tmp_path / "ran")}, states)
    with pytest.raises(PsrError, match=r"model_states.pt: damaged, or no checkpoint"):
        train(preferences, out, "sft", *settings)
    assert not (tmp_path / "ran").exists()


@pytest.mark.faults
@pytest.mark.long
def test_a_controller_killed_as_it_starts_leaves_no_actor_on_its_cluster(head):
    script = """
import os, ray
from actors.ray_train_internals import CleanerCallback

class Controller:
    def begin(self):
        CleanerCallback().after_controller_start(None)

ray.init(logging_level="ERROR")
controller = ray.remote(num_cpus=0)(Controller).remote()
ray.get(controller.begin.remote())
print("begun", flush=True)
os._exit(1)
"""
    environment = head.environment | {"RAY_ADDRESS": head.address}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert "begun" in done.stdout, done.stderr
    over = time.time() + 30
    while head.processes("ray::Cleaner"):
        assert time.time() < over
        time.sleep(0.5)
