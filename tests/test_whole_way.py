"""From real files to M2 with a real small model: GSM8K, SmolLM2-135M with its tokenizer and template, a
teacher behind an endpoint. Far too little to learn anything; what it shows is that all the parts fit."""

import json
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from conftest import ROOT, SECRET
from json_server import serving
from teacher import WRONG, Teacher, prm800k

from psr_ray.storage.shards import read_rows, shards

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(1200)]

GSM8K = ROOT / "tests" / "data" / "gsm8k_train_1000.jsonl"
BENCHMARK = ROOT / "tests" / "data" / "formats" / "gsm8k_test.jsonl"
ENGINE = (
    "sft={lr: 1e-6, num_epochs: 1, use_gpu: false}", "model.max_length=700",
    "sft.tokens_per_pass=700", "dpo.tokens_per_pass=700",
    "engine.kv_cache_gib=0.3", "engine.enforce_eager=true", 'prompts.step_stop="\\n"',
    "search.num_candidates=2", "search.max_steps=2", "search.max_step_tokens=100",
    "evaluation.max_tokens=60", "seed_data.num_rollouts=2",
    "telemetry.num_traces=0",
)  # fmt: skip
TRAINING = ("num_workers=1", "cpus_per_worker=2", "batch_size=4", "zero_stage=0", "use_gpu=false")


@pytest.fixture(scope="module")
def teacher():
    with serving(Teacher) as address:
        yield f"{address}/v1"


def command(*arguments):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True,
        check=False, timeout=580, env=os.environ | {"TEACHER_KEY": SECRET},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert SECRET not in done.stdout + done.stderr
    return done.stdout


def some(settings):
    return [part for setting in settings for part in ("--set", setting)]


def gsm8k(path, first, last):
    """Some lines of the file."""
    path.write_text("".join(GSM8K.read_text().splitlines(keepends=True)[first:last]))
    return path


def test_from_files_to_m2_with_a_real_tokenizer_and_template(chat_model, teacher, tmp_path):
    seed, config = tmp_path / "seed", "configs/smollm2-135m.yaml"
    kept_out = ("--benchmark", BENCHMARK)
    problems = gsm8k(tmp_path / "solved.jsonl", 0, 8)
    judges = (f"seed_data.endpoint={{url: '{teacher}', model: t, key_variable: TEACHER_KEY}}",)
    said = command(
        "jobs/build_seed.py", "ift", "--problems", problems, *kept_out, "--out", seed / "ift",
        "--divide-by", "model", "--config", config, "--model", chat_model, *some(judges),
    )  # fmt: skip
    assert "8 solutions kept" in said
    said = command(
        "jobs/build_seed.py", "eft", "--config", config, "--model", chat_model, *kept_out,
        "--problems", gsm8k(tmp_path / "tried.jsonl", 8, 10),
        "--prm800k", prm800k(tmp_path / "phase2.jsonl", 10, 14),
        "--out", seed / "eft", *some(ENGINE + judges),
    )  # fmt: skip
    assert "2 trees" in said
    trees = list(read_rows(shards(seed / "eft" / "trees" / "tree")))
    assert [tree["error"] for tree in trees] == [None, None]
    assert all(tree["steps"] for tree in trees)
    pairs = pq.read_table(seed / "eft" / "eft.parquet").to_pylist()
    assert len(pairs) > 5
    assert all(WRONG in pair["step_b" if pair["verdict"] == "A" else "step_a"] for pair in pairs)
    test = pq.read_table(seed / "eft" / "eft_test.parquet").to_pylist()
    assert not {p["problem"] for p in pairs} & {p["problem"] for p in test}

    file = "{{kind: file, path: {}, num: {}}}"
    data = (
        f"data.ift={file.format(seed / 'ift' / 'ift.parquet', 2)}",
        f"data.eft={file.format(seed / 'eft' / 'eft.parquet', 2)}",
        f"data.train=[{file.format(gsm8k(tmp_path / 'train.jsonl', 20, 22), 2)}]",
        f"data.heldout={file.format(gsm8k(tmp_path / 'heldout.jsonl', 30, 31), 1)}",
        "data.judge=null", f"data.benchmarks=[{BENCHMARK}]",
    )  # fmt: skip
    trainings = [f"{name}.{value}" for name in ("sft", "dpo") for value in TRAINING]
    settings = (
        *ENGINE, f"model.base={chat_model}", f"runs_dir={tmp_path}", "name=way", "num_iterations=1",
        "sft.num_epochs=1", "sft.lr=1e-5", "evaluation.num_search_problems=1",
        "evaluation.num_samples=2", "evaluation.num_probes=0", *data, *trainings,
    )  # fmt: skip
    command("-m", "psr_ray.cli", "train", "--config", config, *some(settings))
    # M0 and M1 are left out for time: the figures are of M2 alone
    command("-c", EVALUATE_M2, config, *settings)
    run = tmp_path / "way"
    searches = list(read_rows(shards(run / "search-1" / "search")))
    assert [row["error"] for row in searches] == [None, None]
    [pair, *_] = read_rows(shards(run / "preferences-1" / "pairs"))
    assert pair["chosen_ids"] != pair["rejected_ids"]
    summary = json.loads((run / "summary.json").read_text())
    [m2] = [model for model in summary["models"] if model["name"] == "M2"]
    assert m2["benchmarks"]["gsm8k_test"]["num_problems"] == 2
    assert "Step n: " in m2["measured_with"]["prompt_template"]
    exported = command("-m", "psr_ray.cli", "export", run, "--out", tmp_path / "export")
    assert exported.startswith("M2: ")
    pairs = pq.read_table(tmp_path / "export" / "preferences" / "data" / "iteration-1.parquet")
    assert pairs["prompt"][0].as_py().startswith("<|im_start|>")


EVALUATE_M2 = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from psr_ray.report.display import NoDisplay
from actors.pipeline import run_pipeline
from psr_ray.config.file import load_config
config = load_config(Path(sys.argv[1]), sys.argv[2:])
run_pipeline(config, NoDisplay(), wanted=lambda planned: planned.stage.name == "evaluate-M2")
"""
