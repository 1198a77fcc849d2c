"""A first run: `psr-ray init` and `psr-ray run` on a real chat model and problems by their name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from hub_datasets import COMMIT, HubDatasets, gsm8k_files

from psr_ray.storage.shards import read_rows, shards

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.long]
PSR = Path(sys.executable).with_name("psr-ray")


@pytest.mark.timeout(900)
def test_from_a_models_name_and_a_datasets_name_to_m2_in_two_commands(chat_model, tmp_path):
    problems = (ROOT / "tests" / "data" / "gsm8k_train_1000.jsonl").read_bytes()
    tested = (ROOT / "tests" / "data" / "formats" / "gsm8k_test.jsonl").read_bytes()
    hub = HubDatasets({"openai/gsm8k": gsm8k_files(problems, tested)})
    where = os.environ | {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0",
        "PSR_RAY_CACHE": str(tmp_path / "cache"),
    }  # fmt: skip

    def psr(*arguments):
        done = subprocess.run(
            [str(PSR), *arguments], capture_output=True, text=True, check=False, cwd=tmp_path,
            env=where, timeout=800,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]

    try:
        psr("init", "mine", "--model", str(chat_model), "--num", "8", "--benchmark", "gsm8k")
        small = (
            "evaluation.num_benchmark_problems=2", "evaluation.num_search_problems=1",
            "evaluation.num_samples=2", "evaluation.num_probes=1", "evaluation.max_tokens=200",
            "data.heldout.num=2", "search.max_steps=3", "search.max_step_tokens=80",
            "judge.min_lead=0",  # the verdicts of a model of 135M parameters follow the position
        )  # fmt: skip
        psr("run", "--config", "mine.yaml", *(part for s in small for part in ("--set", s)))
    finally:
        hub.end()
    run = tmp_path / "runs" / "mine"
    summary = json.loads((run / "summary.json").read_text())
    assert [model["name"] for model in summary["models"]] == ["M1", "M2"]
    assert all("gsm8k" in model["benchmarks"] for model in summary["models"])
    data = json.loads((run / "data" / "_MANIFEST.json").read_text())
    assert data["revisions"] == {"openai/gsm8k": COMMIT}
    searches = [row for row in read_rows(shards(run / "search-1" / "search")) if not row["error"]]
    texts = [
        (step["number"], candidate["text"])
        for search in searches
        for step in search["steps"]
        for candidate in step["candidates"]
    ]
    assert len(searches) == 8
    assert texts
    assert all(text.startswith(f"Step {number}:") for number, text in texts)
