"""The whole way on a real chat model and real problems: seed data, SFT, one iteration, evaluation."""

import json

import pytest
from conftest import ROOT
from test_chat_model import CONFIG, chat_model  # noqa: F401
from test_end_to_end import psr
from test_ift import GSM8K, build

pytestmark = pytest.mark.slow


def first_lines(path, out, num, start=0):
    out.write_text("".join(path.open().readlines()[start : start + num]))
    return out


def judged_pairs(rows, path):
    """A right and a wrong first step of each solution, judged."""
    pairs = []
    for index, row in enumerate(rows):
        right, *_ = row["solution"].split("\nStep 2:")
        wrong = "Step 1: We cannot know."
        verdict = "AB"[index % 2]
        pairs.append(
            {
                "problem": row["problem"], "steps_so_far": [], "verdict": verdict,
                "step_a": right if verdict == "A" else wrong,
                "step_b": wrong if verdict == "A" else right,
                "judgement": f"Step {verdict} works on the problem. [[{verdict}]]",
            }
        )  # fmt: skip
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


@pytest.mark.faults
@pytest.mark.long
@pytest.mark.timeout(900)
def test_from_gsm8k_to_m2_and_its_accuracy(chat_model, tmp_path):  # noqa: F811
    from psr_ray.storage.shards import read_rows

    worked = first_lines(GSM8K, tmp_path / "worked.jsonl", 8)
    fresh = first_lines(GSM8K, tmp_path / "fresh.jsonl", 2, start=20)
    heldout = ROOT / "tests" / "data" / "formats" / "gsm8k_test.jsonl"
    done = build("--problems", worked, "--benchmark", heldout, "--out", tmp_path / "ift")
    assert done.returncode == 0, done.stderr
    ift = tmp_path / "ift" / "ift.parquet"
    eft = judged_pairs(read_rows([ift]), tmp_path / "eft.jsonl")
    sources = {"ift": (ift, 8), "eft": (eft, 8), "heldout": (heldout, 2)}
    settings = [
        f"data.{name}={{kind: file, path: {path}, num: {num}}}"
        for name, (path, num) in sources.items()
    ]
    settings += [
        f"data.train=[{{kind: file, path: {fresh}, num: 2}}]",
        "data.judge=null",
        f"model.base={chat_model}",
        f"runs_dir={tmp_path}",
        "name=whole",
        "num_iterations=1",
        "model.max_length=768",
        "sft.tokens_per_pass=1024",
        "dpo.tokens_per_pass=1024",
        "search.num_candidates=2",
        "search.temperature=1.0",
        "search.max_steps=2",
        "search.max_step_tokens=40",
        "judge.mode=verdict",
        "evaluation={max_tokens: 60, num_search_problems: 1, num_samples: 1, num_probes: 0}",
        "sft.num_epochs=1",
        "sft.num_workers=1",
        "dpo.num_workers=1",
        "engine.rows_per_shard=1",
    ]
    overrides = [part for setting in settings for part in ("--set", setting)]
    done = psr("run", "--config", CONFIG, *overrides, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert [model["name"] for model in summary["models"]] == ["M0", "M1", "M2"]
    assert summary["models"][2]["num_pairs"] >= 1
    done = psr(
        "evaluate", "--config", CONFIG, "--model", str(tmp_path / "whole" / "train-1" / "model"),
        "--benchmark", str(heldout), "--out", str(tmp_path / "gsm8k"),
        "--set", "evaluation.max_tokens=60",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "95 % interval" in done.stdout
    figures = json.loads((tmp_path / "gsm8k" / "figures.json").read_text())
    assert figures["num_problems"] == 2
    assert figures["num_failed"] == 0
