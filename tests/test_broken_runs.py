"""Runs broken on purpose, with the real parts: each must raise the alarm that is made for it."""

import json
import random

import pytest
from conftest import ROOT

from psr_ray.config.file import load_config
from psr_ray.embedded.seed import ift_problems, judged_pairs
from psr_ray.report.display import NoDisplay

pytestmark = pytest.mark.slow

SMOKE = ROOT / "configs" / "smoke.yaml"
# enough fine-tuning for steps in form and a verdict out of habit; nothing is measured on M0
SETTINGS = (
    "data.judge=null",
    "data.heldout.num=24",
    "evaluation.num_search_problems=24",
    "evaluation.num_probes=0",
    "engine.num_engines=[1,1]",
    "sft.lr=2e-3",
    "sft.batch_size=32",
    "sft.tokens_per_pass=2048",
    "sft.ift_per_batch=0.5",
    "sft.zero_stage=0",
)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pair_rows(num, change):
    """Judged pairs as a file has them, each changed."""
    rows = []
    for index, pair in enumerate(judged_pairs("eft", num, seed=3)):
        row = {
            "id": str(index), "problem": pair.problem.text, "steps_so_far": pair.steps_so_far,
            "step_a": pair.step_a, "step_b": pair.step_b, "judgement": "none",
            "verdict": pair.verdict,
        }  # fmt: skip
        rows.append(row | change(row))
    return rows


def alarms(tmp_path, *settings, without=()):
    """Run the pipeline, but for stages of some names, and return its alarms by model and kind."""
    from actors.pipeline import run_pipeline

    config = load_config(SMOKE, (f"runs_dir={tmp_path}", *SETTINGS, *settings))
    summary = run_pipeline(
        config,
        NoDisplay(),
        wanted=lambda planned: planned.stage.name not in ("evaluate-M0", *without),
    )
    return {(alarm["model"], alarm["kind"]): alarm["message"] for alarm in summary["alarms"]}


AFTER_M1 = ("search-1", "preferences-1", "train-1", "evaluate-M2")


@pytest.mark.faults
@pytest.mark.long
def test_a_judge_that_always_says_a(ray_up, tmp_path):
    eft = write(tmp_path / "eft.jsonl", pair_rows(1200, lambda row: {"verdict": "A"}))
    ift = "data.ift={kind: arithmetic, num: 1200}"
    found = alarms(
        tmp_path, ift, f"data.eft={{kind: file, path: {eft}, num: 1200}}", without=AFTER_M1
    )
    assert "says A" in found["M1", "judge collapse"]


@pytest.mark.faults
@pytest.mark.long
def test_a_judge_that_likes_long_steps(ray_up, tmp_path):
    rng = random.Random(0)

    def lengthen(step):
        return f"{step}, as we see"

    def prefer_long(row):
        first = rng.random() < 0.5
        name = "step_a" if first else "step_b"
        return {name: lengthen(row[name]), "verdict": "A" if first else "B"}

    ift_rows = [
        {
            "id": str(index),
            "problem": problem.text,
            "solution": "\n".join(
                lengthen(line) if rng.random() < 0.5 else line
                for line in problem.solution.splitlines()
            ),
        }
        for index, problem in enumerate(ift_problems(1200, seed=3))
    ]
    ift = write(tmp_path / "ift.jsonl", ift_rows)
    eft = write(tmp_path / "eft.jsonl", pair_rows(1600, prefer_long))
    found = alarms(
        tmp_path,
        f"data.ift={{kind: file, path: {ift}, num: 1200}}",
        f"data.eft={{kind: file, path: {eft}, num: 1600}}",
        without=AFTER_M1,
    )
    assert "longer of two steps wins" in found["M1", "length bias"]


@pytest.mark.faults
@pytest.mark.long
def test_a_beta_far_too_small(ray_up, tmp_path):
    found = alarms(
        tmp_path,
        "data.ift.num=600",
        "data.eft.num=600",
        "data.train=[{num: 24}]",
        "dpo.beta=1e-4",
        "dpo.nll_weight=0",
        "dpo.lr=1e-3",
        "dpo.num_epochs=6",
        "dpo.zero_stage=0",
        without=("evaluate-M1",),
    )
    assert "less likely" in found["M2", "likelihood displacement"]
