"""Looking at a model without a config: search, evaluate, from Python too; doctor --try."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TINY
from finished import finished_run

from psr_ray.config.file import load_config
from psr_ray.measures.trial import trial_findings
from psr_ray.storage.shards import read_rows, shards

PSR = Path(sys.executable).with_name("psr-ray")
SMOKE = load_config(ROOT / "configs" / "smoke.yaml")
COMPACT = (
    "--set", "prompts.templates=compact", "--set", 'prompts.step_stop="\\n"',
    "--set", "search.max_steps=2", "--set", "engine.kv_cache_gib=0.1",
)  # fmt: skip


def psr(folder, *arguments):
    return subprocess.run(
        [str(PSR), *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False,
        timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["search", "1+1?"], "--model or --config: give a model to look at"),
        (["search", "--model", TINY], "give a problem in quotes"),
        (["search", "--model", TINY, "1+1?", "--problems", "x"], "give one of them"),
        (["evaluate", "--model", TINY], "--benchmark or --problems: name what is to be solved"),
        (["search", "--model", "no/such/model", "1+1?"], "model no/such/model:"),
    ],
)
def test_what_is_missing_is_named(tmp_path, arguments, says):
    done = psr(tmp_path, *arguments)
    assert done.returncode == 2
    assert says in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_problem_in_quotes_is_searched_without_a_config(tmp_path):
    done = psr(tmp_path, "search", "--model", TINY, *COMPACT, "Ann has 3 apples and buys 4?")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "problem-1: Ann has 3 apples and buys 4?" in done.stdout
    assert "\x1b" not in done.stdout
    [folder] = (tmp_path / "runs").glob("search-*")
    again = psr(tmp_path, "search", "--model", TINY, *COMPACT, "Ann has 3 apples and buys 4?")
    assert again.stdout == done.stdout
    assert list((tmp_path / "runs").glob("search-*")) == [folder]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.faults  # so that make faults tries it
def test_a_file_is_graded_without_a_config(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps({"problem": "What is 3+4?", "answer": "7"}))
    done = psr(tmp_path, "evaluate", "--model", TINY, *COMPACT, "--benchmark", file)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "on 1 problems, 0 failed rows" in done.stdout


PYTHON = """
import sys, psr_ray
settings = ["prompts.templates=compact", 'prompts.step_stop="\\\\n"', "search.max_steps=2",
            "engine.kv_cache_gib=0.1"]
found = psr_ray.search(sys.argv[1], ["1+1?", "2+2?"], *settings)
print(list(found["problem"]), len(found[0]["steps"]) > 0)
print(psr_ray.evaluate(sys.argv[1], sys.argv[2], *settings)["num_problems"])
"""


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.faults  # so that make faults tries it
def test_the_same_from_python(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps({"problem": "What is 3+4?", "answer": "7"}))
    done = subprocess.run(
        [sys.executable, "-c", PYTHON, str(TINY), str(file)], cwd=tmp_path, capture_output=True,
        text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-2:] == ["['1+1?', '2+2?'] True", "1"]


def rows(path):
    run = finished_run(path).path
    return list(read_rows(shards(run / "search-1" / "search")))


def test_a_trial_says_what_is_usable_and_which_setting_to_change(tmp_path):
    good = [row for row in rows(tmp_path) if not row["error"]]
    assert [finding.remedy for finding in trial_findings(good, SMOKE)] == [""] * 5
    for row in good:
        row["end"], row["predicted"] = "step_too_long", None
        for step in row["steps"]:
            step["num_truncated"] = 50
            for verdict in step["verdicts"]:
                verdict["first_wins"] = None
    steps, ends, boxes, verdicts, *_ = trial_findings(good, SMOKE)
    assert "raise search.max_step_tokens (now 32)" in steps.remedy
    assert ends.remedy == "see steps"
    assert "no search came to the end" in boxes.what
    assert "raise judge.max_tokens" in verdicts.remedy
    for row in good:
        row["end"] = "finished"
    assert "say \\boxed{}" in trial_findings(good, SMOKE)[2].remedy
    for row in good:
        row["end"], row["steps"] = "max_length", []
    steps, ends, *_ = trial_findings(good, SMOKE)
    assert steps.what == "steps: none could be sampled and judged"
    assert "or lower judge.max_tokens" in ends.remedy
    failed = [{"error": "ProblemTooLong: prompt of 9 tokens"}]
    assert "ProblemTooLong" in trial_findings(failed, SMOKE)[0].what


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.faults  # so that make faults tries it
def test_doctor_tries_three_problems(tmp_path):
    done = psr(
        ROOT, "doctor", "--try", "--config", "configs/smoke.yaml", "--set", f"runs_dir={tmp_path}"
    )
    assert "samples are one complete step" in done.stdout, done.stdout + done.stderr[-2000:]
    assert "ends: " in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("values", "num", "usable"),
    [
        ((0.9, 0.2), 10, True),
        ((0.57, 0.54), 10, False),  # A in both orders
        ((0.57, 0.54), 9, True),  # too few comparisons to say so
        ((0.5, 0.5), 10, False),  # no letter at all
    ],
)
def test_twenty_comparisons_show_a_judge_that_follows_the_place(tmp_path, values, num, usable):
    row = next(row for row in rows(tmp_path) if not row["error"] and row["steps"])
    step, pair = row["steps"][0], {"text": "", "mass": 0.9}
    step["candidates"], step["tied"], step["rejected"] = step["candidates"][:2], not usable, 1
    step["verdicts"] = [
        pair | {"first": 0, "second": 1, "first_wins": values[0]},
        pair | {"first": 1, "second": 0, "first_wins": values[1]},
    ]
    for candidate in step["candidates"]:
        candidate["is_right"] = None
    order = trial_findings([row | {"steps": [step]}] * num, SMOKE)[4]
    if values == (0.5, 0.5):
        assert order.what == "order: no pair has a letter in both orders"
    else:
        assert f"of {num} pairs both orders name the same step" in order.what
    assert ("docs/judging.md" in order.remedy) == (not usable)


def test_letters_without_probability_and_texts_that_are_cut_off_are_found(tmp_path):
    row = next(row for row in rows(tmp_path) if not row["error"] and row["steps"])
    for step in row["steps"]:
        for verdict in step["verdicts"]:
            verdict["mass"] = 0.02
    *_, letters, cut = trial_findings([row | {"num_cut_texts": 3}], SMOKE)
    assert "A and B have 2.0% of the probability" in letters.what
    assert "raise judge.max_tokens" in cut.remedy
