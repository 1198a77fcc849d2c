"""Faults in each stage of a complete run: rerunning the command resumes, and nothing is lost."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import ROOT

from benchmarks.heads import children
from benchmarks.whole import expected_and_found

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.long]
PSR = Path(sys.executable).with_name("psr-ray")
STAGES = ["data", "sft", "evaluate-M1", "search-1", "preferences-1", "train-1", "evaluate-M2"]
END_S = 20  # within which everything ends


class Command:
    """`psr-ray run`, as a process with all that it starts."""

    def __init__(self, runs, errors=None):
        self.run_dir = runs / "smoke"
        self.errors = errors or runs / "errors.txt"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [str(PSR), "run", "--config", "configs/smoke.yaml", "--set", f"runs_dir={runs}"],
                cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True,
            )  # fmt: skip

    def family(self):
        return children(self.process.pid, "")

    def wait_for(self, stage):
        """Until work on a stage has left something; False where the stage was too quick."""
        folder = self.run_dir / stage
        while not (folder / "_MANIFEST.json").exists():
            assert self.process.poll() is None, self.errors.read_text()
            left = [*folder.glob("*/part-*.parquet"), *folder.glob("metrics.jsonl")]
            if any(path.stat().st_size for path in left):
                return True
            if folder.exists() and stage in ("data", "preferences-1"):
                return True
            time.sleep(0.02)
        return False

    def ended(self, family):
        """Seconds until none of the family is left."""
        started = time.time()
        self.process.wait(END_S)
        _, alive = psutil.wait_procs(
            [p for p in family if p.is_running() and not is_ray_agent(p)], timeout=END_S
        )
        assert not alive, [p.cmdline() for p in alive]
        return time.time() - started


def finish(runs, errors=None):
    """The run to its end; then every stage's rows against its input."""
    command = Command(runs, errors)
    assert command.process.wait(600) == 0, command.errors.read_text()
    return expected_and_found(command.run_dir)


def is_ray_agent(process):
    """Ray's own helpers of a node, which now and then outlive a node that was killed as it started."""
    try:
        return process.cmdline()[0].endswith("Agent")
    except (psutil.Error, IndexError):
        return False


def test_the_command_is_killed_in_each_stage(tmp_path, record):
    started, num, kept, killed = time.time(), 0, {}, []
    for stage in STAGES:
        command = Command(tmp_path)
        num += command.wait_for(stage)
        family = command.family()
        now = {p: p.stat().st_mtime_ns for p in command.run_dir.glob("*/*/part-*.parquet")}
        command.process.kill()  # and the same command again, while what it started is still ending
        killed.append((command, family))
        for path, when in kept.items():  # what stood there before was not done again
            assert path.stat().st_mtime_ns == when
        kept = now
    expected, found = finish(tmp_path)
    for command, family in killed:
        command.ended(family)
    record(
        "command killed (SIGKILL), a stage each",
        num,
        expected,
        found,
        (time.time() - started) / num,
    )


def test_the_driver_actor_is_killed_in_each_stage(tmp_path, record):
    command = Command(tmp_path)
    started, num = time.time(), 0
    for stage in STAGES:
        if command.wait_for(stage):
            drivers = children(command.process.pid, "IterationDriver")
            min(
                drivers, key=lambda each: each.create_time()
            ).kill()  # the next one may wait already
            num += 1
    assert command.process.wait(600) == 0, command.errors.read_text()
    expected, found = expected_and_found(command.run_dir)
    record("driver actor killed, a stage each", num, expected, found, (time.time() - started) / num)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_a_stopped_job_end_everything_and_resume(tmp_path, record, sign):
    command = Command(tmp_path)
    assert command.wait_for("search-1")
    family = command.family()
    os.kill(command.process.pid, sign)
    seconds = command.ended(family)
    assert command.process.returncode == 128 + sign
    assert "rerun the command to resume" in command.errors.read_text()
    assert "Traceback" not in command.errors.read_text()
    expected, found = finish(tmp_path)
    record(f"{sign.name} (everything ends)", 1, expected, found, seconds)


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own: ``disk(options)`` remounts it with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode and options == FIRST:
            pytest.skip(f"needs the right to mount a file system: {done.stderr}")
        assert done.returncode == 0, done.stderr
        return folder

    mount(FIRST)
    yield mount
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


FIRST = "size=1g"


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("fault", ["disk full", "folder read-only"])
def test_a_disk_that_takes_nothing_more_in_each_stage(tmp_path, disk, record, fault):
    """A disk fills up under a run; a folder is read-only when the next command comes (no file system
    turns read-only while a file is open for writing, but by its own failure)."""
    runs, num, started = tmp_path / "disk", 0, time.time()
    ballast, errors = runs / "ballast", tmp_path / "errors.txt"
    for stage in STAGES:
        command = Command(runs, errors=errors)
        caught, family = command.wait_for(stage), command.family()
        if fault == "folder read-only" or not caught:
            command.process.kill()
            command.ended(family)
        if not caught:
            continue
        if fault == "folder read-only":
            disk("remount,ro")
            command = Command(runs, errors=errors)
        else:
            with contextlib.suppress(OSError), ballast.open("wb") as file:
                while True:
                    file.write(bytes(2**20))
        assert command.process.wait(120) == 2, errors.read_text()
        reason = {"disk full": "No space left", "folder read-only": "Read-only file system"}[fault]
        said = errors.read_text()
        assert reason in said
        assert "Traceback" not in said
        assert len(said.strip().splitlines()) == 1
        command.ended(family)
        disk("remount,rw") if fault == "folder read-only" else ballast.unlink()
        num += 1
    expected, found = finish(runs, errors)
    record(f"{fault}, a stage each", num, expected, found, (time.time() - started) / num)


def test_a_second_command_on_the_same_run_ends_at_once_and_a_stale_lock_does_not_block(
    tmp_path, record
):
    command = Command(tmp_path)
    command.wait_for("sft")
    second, started = Command(tmp_path, errors=tmp_path / "second.txt"), time.time()
    assert second.process.wait(30) == 2
    assert f"in use by process {command.process.pid}" in second.errors.read_text()
    seconds = time.time() - started
    family = command.family()
    command.process.kill()
    command.ended(family)
    assert (command.run_dir / "_HOLDER.json").exists()  # what the dead process left
    expected, found = finish(tmp_path)
    record("second command on one run", 1, expected, found, seconds)
