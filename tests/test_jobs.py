"""`ray job submit` with a token, the run in an S3 store: submitted, stopped, resumed."""

import contextlib
import json
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request

import psutil
import pytest
from conftest import ROOT, SECRET, TINY
from stores import BUCKET, Store
from test_end_to_end import psr

from benchmarks.heads import Head
from benchmarks.whole import expected_and_found
from psr_ray.embedded.arithmetic import generate_problems
from psr_ray.storage.locations import location, upload

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(1200)]
END_S = 20  # within which everything ends


def sent_with(jobs):
    """What a user would submit: the code, and held-out problems beside it."""
    for name in ("psr_ray", "actors", "jobs", "configs"):
        shutil.copytree(ROOT / name, jobs / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "runtime_env.yaml", jobs)
    problems = generate_problems("heldout", 60, seed=0)
    rows = [{"problem": problem.text, "answer": problem.answer} for problem in problems]
    (jobs / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def exported(address):
    """Names of our metrics that a node exports for Prometheus."""
    with urllib.request.urlopen(address, timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return {line.split("{")[0] for line in lines if line.startswith("ray_psr_ray_")}


def test_a_stopped_job_ends_everything_and_the_next_one_resumes(tmp_path, record):
    """A job on a cluster with a token, its code alone uploaded; model and run in an S3 store."""
    store = Store(tmp_path / "store.log")
    with contextlib.ExitStack() as stack:
        stack.callback(store.end)
        stack.enter_context(store.used())
        upload(TINY, location(f"s3://{BUCKET}/tiny-m0"))
        variables = store.environment | {"PSR_RAY_CACHE": str(tmp_path / "cache")}
        variables |= {"HF_TOKEN": SECRET, "WANDB_API_KEY": SECRET}
        variables |= {"RAY_metrics_report_interval_ms": "1000"}
        head = Head(tmp_path / "head.log", **variables)
        stack.callback(head.end)
        run_dir = location(f"s3://{BUCKET}/runs/smoke")
        # up to M1: what a stop in later stages loses is seen in `make faults`
        changed = (
            f"runs_dir={run_dir.parent}", f"model.base=s3://{BUCKET}/tiny-m0", "num_iterations=0",
            "sft.num_workers=1", "data.heldout={kind: file, path: mine.jsonl}",
        )  # fmt: skip
        sent_with(jobs := tmp_path / "jobs")
        settings = [part for setting in changed for part in ("--set", setting)]
        entry = (sys.executable, "jobs/run.py", "--config", "configs/smoke.yaml", *settings)
        # most problems are still to be solved when the job is stopped; no row depends on it
        one_at_a_time = ("--set", "engine.max_rows_in_flight=1")

        def status():
            return psr("status", "first", "--runs-dir", str(run_dir.parent))

        done = head.job(
            "submit", "--no-wait", "--submission-id=first", "--working-dir", ".",
            "--runtime-env", "runtime_env.yaml", "--", *entry, *one_at_a_time, cwd=jobs,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        started = time.time()
        while not list((run_dir / "evaluate-M0").glob("*/part-*.parquet")):
            assert time.time() < started + 300, head.get("/api/jobs/first/logs")
            time.sleep(0.5)
        kept = {path: path.stat().st_mtime for path in run_dir.glob("*/*/part-*.parquet")}
        ours = head.processes("jobs/run.py", "EngineWorker", "IterationDriver", "EngineCore")
        assert len(ours) >= 3
        assert "is running it, job first" in status().stdout
        counted = exported(head.metrics)
        stopped = time.time()
        assert head.job("stop", "first").returncode == 0
        assert not (run_dir / "evaluate-M0" / "_MANIFEST.json").exists()
        _, alive = psutil.wait_procs(ours, timeout=END_S)
        assert not alive, [p.cmdline() for p in alive]
        seconds = time.time() - stopped
        assert not head.processes(
            "jobs/run.py", "EngineWorker", "IterationDriver", "RayTrainWorker"
        )
        assert "not running: rerun the command" in status().stdout

        (jobs / "notes.txt").write_text("another upload, in another folder of the nodes")
        code = f"""
import sys, yaml
from ray.job_submission import JobSubmissionClient
client = JobSubmissionClient({head.dashboard!r})
name = client.submit_job(entrypoint={shlex.join([*entry, "--update"])!r}, submission_id="second",
    runtime_env=yaml.safe_load(open("runtime_env.yaml")) | {{"working_dir": "."}})
while not client.get_job_status(name).is_terminal(): __import__("time").sleep(1)
print(client.get_job_status(name), client.get_job_logs(name))
"""
        client = subprocess.Popen(
            [sys.executable, "-c", code], env=head.environment, cwd=jobs, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        while client.poll() is None:
            counted |= exported(head.metrics)
            time.sleep(0.5)
        said = client.stdout.read()
        assert "SUCCEEDED" in said, said
        assert "(complete)" in said
        names = ("problems_total", "steps_total", "verdicts_total", "loss")
        assert {f"ray_psr_ray_{name}" for name in names} <= counted
        assert all(path.stat().st_mtime == when for path, when in kept.items())

        shown = [head.get(path) for path in ("/api/jobs/", "/api/v0/actors?detail=true")]
        assert b"IterationDriver" in shown[1]
        logs = [path.read_bytes() for path in head.folder.rglob("*") if path.is_file()]
        assert len(logs) > 10
        results = [path.read_bytes() for path in run_dir.rglob("*") if path.is_file()]
        for text in (said.encode(), *shown, *logs, *results):
            assert SECRET.encode() not in text
        record("ray job stop (everything ends)", 1, *expected_and_found(run_dir, 0), seconds)
