"""Benchmarks: named ones and files, intervals, gradings that a person should look at."""

import json

import pytest
from conftest import ROOT

from psr_ray.config.file import load_config
from psr_ray.data.benchmarks import BENCHMARKS, benchmark_file
from psr_ray.errors import PsrError
from psr_ray.report.benchmark import benchmark_lines, looks_equal, write_benchmark
from psr_ray.report.intervals import interval


def row(name, answer, predicted, correct):
    return {
        "id": name, "problem": "x?", "answer": answer, "predicted": predicted, "correct": correct,
        "text": "", "finish": "stop", "num_steps": 2, "num_tokens": 20, "error": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("right", "num", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (50, 100, 0.4038, 0.5962),
        (15, 30, 0.3315, 0.6685),
    ],
)
def test_intervals_are_wilsons(right, num, low, high):
    """Values of R's ``binom.confint(x, n, methods="wilson")``."""
    assert interval(right / num, num) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(
    ("gold", "predicted", "alike"),
    [
        ("x=\\frac{1}{2}y", "x = 1/2 y", True),
        ("(1,2)", "[1,2]", True),
        ("12", "13", False),
        ("2n-2", "even", False),
        ("\\text{June 20}", "June 20th", True),
        ("5", "", False),
    ],
)
def test_a_reader_looks_twice_at_answers_that_look_equal(gold, predicted, alike):
    assert looks_equal(gold, predicted) is alike


def test_figures_prompts_and_doubtful_gradings_are_stored(tmp_path):
    rows = [row("1", "(1,2)", "[1,2]", False), row("2", "7", "7", True), row("3", "7", "8", False)]
    config = load_config(ROOT / "configs" / "smoke.yaml")
    figures = write_benchmark(tmp_path, rows, config, "models/tiny-m0", "amc23")
    stored = json.loads((tmp_path / "figures.json").read_text())
    assert stored["benchmark"] == "amc23"
    assert stored["accuracy"] == pytest.approx(1 / 3)
    assert stored["accuracy_ci95"] == pytest.approx(interval(1 / 3, 3))
    assert {"prompt", "max_tokens", "model"} <= stored.keys()
    assert "math-verify" in stored["versions"]
    [doubtful] = (tmp_path / "disagreements.jsonl").read_text().splitlines()
    assert json.loads(doubtful)["id"] == "1"
    assert "1 marked wrong though they look equal" in benchmark_lines(figures)
    other = load_config(ROOT / "configs" / "qwen2.5-math-7b.yaml")
    assert write_benchmark(tmp_path, rows, other, "m", "amc23")["prompt"] != stored["prompt"]


def test_a_benchmark_is_a_file_or_a_name(tmp_path, monkeypatch):
    path = ROOT / "tests" / "data" / "formats" / "amc23.jsonl"
    assert benchmark_file(str(path)) == path
    with pytest.raises(PsrError, match=r"gsm9k: no such file, and none of gsm8k, math, math500"):
        benchmark_file("gsm9k")
    assert len(BENCHMARKS) == 7
    monkeypatch.setenv("PSR_RAY_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(PsrError, match=r"cannot be fetched from the Hub .* give the path"):
        benchmark_file("gsm8k")  # tests are offline
    assert not list(tmp_path.rglob("*.parquet"))
    kept = tmp_path / "benchmarks" / "amc23.parquet"
    kept.parent.mkdir(exist_ok=True)
    kept.write_bytes(b"")
    assert benchmark_file("amc23") == kept
