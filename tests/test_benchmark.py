"""Benchmarks: named ones and files, intervals, gradings that a person should look at."""

import json

import pytest
from conftest import ROOT, TINY
from scripted import character_prompts, drive

from psr_ray.config.file import load_config
from psr_ray.data.benchmarks import BENCHMARKS, benchmark_file, benchmark_of, benchmark_rows
from psr_ray.data.files import Failures
from psr_ray.data.rows import problem_row
from psr_ray.data.stage import evaluation_files, write_data
from psr_ray.doctor import check_inputs
from psr_ray.errors import PsrError
from psr_ray.inference.records import solution_row
from psr_ray.inference.tasks import sample_task
from psr_ray.measures.benchmark import (
    benchmark_lines,
    figures_of_benchmark,
    looks_equal,
    write_benchmark,
)
from psr_ray.measures.intervals import interval
from psr_ray.measures.sampling import by_number
from psr_ray.planning.lengths import lengths_of
from psr_ray.planning.work import evaluation_work
from psr_ray.problems import Problem
from psr_ray.report.paper import views, write_views
from psr_ray.runs import RunDirectory
from psr_ray.stages import planned_stages
from psr_ray.storage.shards import read_rows


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
    figures = write_benchmark(tmp_path, rows, config, str(TINY), "amc23")
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
    with pytest.raises(PsrError, match=r"gsm8k: .* on the Hub: Couldn't reach .* or give a file"):
        benchmark_file("gsm8k")  # tests are offline
    assert not list(tmp_path.rglob("*.parquet"))
    kept = tmp_path / "benchmarks" / "amc23.parquet"
    kept.parent.mkdir(exist_ok=True)
    kept.write_bytes(b"")
    assert benchmark_file("amc23") == kept


def configured(tmp_path, *overrides):
    return load_config(ROOT / "configs" / "smoke.yaml", (f"runs_dir={tmp_path}", *overrides))


def problems_file(folder, name, texts):
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"problem": t, "answer": "4"}) + "\n" for t in texts))
    return path


LONG = (
    "A train leaves the town at nine in the morning with {} passengers, and at each of four stops"
)
OTHERS = [f"What is {n} and {n}?" for n in range(8)]


def test_a_run_has_the_benchmarks_and_leaves_out_what_they_hold(tmp_path):
    held, path = LONG.format(7), ROOT / "tests" / "data" / "formats" / "amc23.jsonl"
    own = problems_file(tmp_path, "gsm8k_mine", [held, "How much?"])
    train = problems_file(tmp_path, "train", [held + " how many get off?", *OTHERS])
    source = f"data.train=[{{kind: file, path: {train}, num: 20}}]"
    names = f"data.benchmarks=[{path}, {own}]"
    config = configured(tmp_path, names, source, "evaluation.search_benchmarks=true",
                        "evaluation.num_benchmark_problems=2",
                        "evaluation.num_search_problems=1")  # fmt: skip
    facts = write_data(config, tmp_path / "data")
    assert facts["rows"]["benchmark"] == 4
    assert facts["rows"]["search-1"] == 8
    assert facts["num_held_out"] == 1
    assert facts["num_failed"] == 0
    rows = list(read_rows([tmp_path / "data" / "benchmark.parquet"]))
    assert {benchmark_of(row["id"]) for row in rows} == {"amc23", "gsm8k_mine"}
    assert {(row["task"], row["dataset"]) for row in rows} == {("solve", "benchmark")}
    again = list(read_rows([tmp_path / "data" / "benchmark-sample.parquet"]))
    assert [(r["task"], r["dataset"], benchmark_of(r["id"])) for r in again] == [
        ("sample", "benchmark", "amc23"), ("sample", "benchmark", "gsm8k_mine"),
    ]  # fmt: skip
    assert evaluation_files(config, "M0")[-1] == "benchmark"
    assert evaluation_files(config, "M1")[-2:] == ["benchmark-search", "benchmark-sample"]
    kept = configured(tmp_path, names, source, "data.decontaminate=false")
    assert write_data(kept, tmp_path / "kept")["rows"]["search-1"] == 9
    only = problems_file(tmp_path, "only", [held + " how many get off?"])
    everything = configured(tmp_path, names, f"data.train=[{{kind: file, path: {only}}}]")
    with pytest.raises(PsrError, match=r"data\.train: all of its 1 problems share 13 words"):
        write_data(everything, tmp_path / "none")


def test_a_benchmark_without_answers_or_unknown_is_refused(tmp_path):
    path = tmp_path / "open.jsonl"
    path.write_text('{"problem": "How many?"}\n')
    config = configured(tmp_path, f"data.benchmarks=[{path}]")
    with pytest.raises(PsrError, match=r"open\.jsonl: no problem has an answer to grade by"):
        write_data(config, tmp_path / "data")
    with pytest.raises(PsrError, match="gsm9k: no such file"):
        check_inputs(configured(tmp_path, "data.benchmarks=[gsm9k]"))


def test_what_is_asked_of_a_model_redoes_its_evaluations_alone(tmp_path):
    def keys(*settings):
        run = RunDirectory(configured(tmp_path, *settings))
        return {planned.stage.name: planned.stage.key for planned in planned_stages(run)}

    changed = keys("data.benchmarks=[gsm8k]")
    assert not set(keys().values()) & set(changed.values())
    asked_more = keys("data.benchmarks=[gsm8k]", "evaluation.best_of=true",
                      "evaluation.search_benchmarks=true")  # fmt: skip
    redone = {name for name in changed if changed[name] != asked_more[name]}
    assert redone == {"evaluate-M0", "evaluate-M1", "evaluate-M2"}


def test_held_out_problems_are_not_learned_from_whatever_their_case_and_spacing(tmp_path):
    held = problems_file(tmp_path, "held", ["How many  boxes?", LONG.format(7)])
    hard = problems_file(tmp_path, "hard", [LONG.format(9)])
    texts = ["how many BOXES", LONG.format(7).upper() + " Say?", f"({LONG.format(9)})", *OTHERS]
    train = problems_file(tmp_path, "train", texts)
    ift = tmp_path / "ift.jsonl"
    solved = {"problem": "HOW many boxes?", "answer": "4", "solution": "Step 1: \\boxed{4}"}
    ift.write_text(
        "".join(json.dumps(solved | {"problem": t}) + "\n" for t in ("HOW many boxes?", "More?"))
    )
    files = [f"data.{name}={{kind: file, path: {path}, num: 20}}"
             for name, path in (("heldout", held), ("hard", hard), ("ift", ift))]  # fmt: skip
    config = configured(tmp_path, *files, f"data.train=[{{kind: file, path: {train}, num: 20}}]")
    facts = write_data(config, tmp_path / "data")
    assert (facts["rows"]["search-1"], facts["rows"]["ift"], facts["num_held_out"]) == (8, 1, 4)
    failed = (tmp_path / "data" / "failed.jsonl").read_text()
    assert failed.count("held out by data.heldout") == 3
    assert failed.count("held out by data.hard") == 1


def test_answers_outside_a_box_are_counted_separately(tmp_path):
    solved = [
        solution_row(str(i), "x?", "1/2", text, 9, "eos")
        for i, text in enumerate(["\\boxed{0.5}", "So the answer is $1/2$.", "It is 3.", "None."])
    ]
    assert [row["correct"] for row in solved] == [True, False, False, False]
    config = load_config(ROOT / "configs" / "smoke.yaml")
    figures = write_benchmark(tmp_path, solved, config, "m", "mine")
    assert (figures["accuracy"], figures["accuracy_with_unboxed"]) == (0.25, 0.5)
    assert "50.0% with answers found elsewhere" in benchmark_lines(figures)


def test_benchmarks_that_would_be_called_the_same_are_refused(tmp_path):
    paths = [tmp_path / folder / "test.jsonl" for folder in "ab"]
    for path in paths:
        path.parent.mkdir()
        problems_file(path.parent, "test", OTHERS)
    for names in (f"[{paths[0]}, {paths[1]}]", "[gsm8k, gsm8k]"):
        config = configured(tmp_path, f"data.benchmarks={names}")
        with pytest.raises(PsrError, match="would both be called"):
            check_inputs(config)


def test_ids_that_occur_twice_in_a_benchmark_are_counted(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [{"problem": f"{i}+1?", "answer": str(i + 1), "id": i % 2} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    failures = Failures()
    assert len(benchmark_rows(str(path), None, failures)) == 2
    assert len(failures.items) == 4
    assert len(benchmark_rows(str(path), 1, Failures())) == 1


def test_the_plan_counts_the_problems_of_benchmarks(tmp_path):
    lengths = lengths_of(configured(tmp_path))

    def rows(*settings):
        return evaluation_work(configured(tmp_path, *settings), "M1", lengths).rows

    least = rows()
    assert rows("data.benchmarks=[aime24,amc23]") == least + 70
    some = ("data.benchmarks=[gsm8k]", "evaluation.num_benchmark_problems=9")
    assert rows(*some) == least + 9
    assert rows(*some, "evaluation.search_benchmarks=true") == least + 9 + 2 * 6


def test_the_best_of_some_samples_is_the_one_the_judge_prefers(tmp_path):
    config = configured(tmp_path, "evaluation.best_of=true", "evaluation.num_samples=4",
                        "judge.mode=explain", "judge.max_tokens=100")  # fmt: skip
    prompts = character_prompts()
    texts = ["Step 1: \\boxed{1}$", "Step 1: \\boxed{2}$", "Step 1: \\boxed{1}$", "cut off"]
    problem = problem_row("sample", Problem("p", "1+1?", answer="2"))
    row, asked = drive(
        sample_task(problem, prompts, config),
        lambda _prompt, _num: texts,
        lambda a, b: "[[A]]" if "{2}" in a else "[[B]]" if "{2}" in b else "[[A]]",
        prompts,
    )
    assert (row["best"], row["samples"][1]["correct"]) == (1, True)
    assert row["num_judge_tokens"] > 0
    assert len(asked) == 1 + 2  # two different solutions that ended, in both orders
    figures = by_number([row])
    assert figures["best_of"]["accuracy"] == 1
    assert figures["majority_at"]["4"] == 0
    assert figures["pass_at"] == {"1": 0.25, "2": 0.5, "4": 1.0}
    short = config.model_copy(update={"model": config.model.model_copy(update={"max_length": 110})})
    row, _ = drive(sample_task(problem, prompts, short), lambda *_: texts, None, prompts)
    assert row["best"] is None  # two solutions are too long for the judge
    assert "best_of" not in by_number([row])


def test_views_set_a_run_beside_the_paper(tmp_path):
    def entry(name, right):
        solved = [row(str(i), "1", "1", i < right) for i in range(20)]
        figures = figures_of_benchmark(solved, [], [])
        test_time = {"num_problems": 20, "greedy": 0.5, "search": 0.6, "search_tokens": 900.0,
                     "majority": 0.55, "majority_tokens": 880.0}  # fmt: skip
        figures["test_time"] = test_time
        figures["sampled"] = {"best_of": {"accuracy": 0.65, "tokens": 1200.0}}
        return {"name": name, "accuracy": 0.5, "judge_accuracy_fixed": 0.9,
                "judge_accuracy_fixed_se": 0.02, "judge_accuracy_on_policy": None,
                "benchmarks": {"mine": figures, "gsm8k_test": figures}}  # fmt: skip

    summary = {"name": "run", "models": [entry("M0", 8), entry("M1", 10)]}
    write_views(tmp_path, summary)
    accuracy, judge, steps, searched = views(summary)
    assert accuracy.columns == ["model", "gsm8k_test", "mine"]
    assert accuracy.rows[3] == ["M1", "50.0 [29.9, 70.1]", "50.0 [29.9, 70.1]"]
    assert accuracy.rows[4] == ["published, 7B", "88.5", "–"]
    assert judge.rows[1] == ["M1", "90.0 ± 2.0", "–", "92.8", "95.6"]
    assert ["published, 72B", "5.9 | 48", "–"] in steps.rows
    assert searched.rows[2] == ["M1", "gsm8k_test (20)", "50.0", "60.0 (900)", "55.0 (880)",
                                "65.0 (1200)", "92.6 → 94.5"]  # fmt: skip
    assert "| M1 | 50.0 [29.9, 70.1]" in (tmp_path / "paper-tables.md").read_text()
    assert views({"models": []}) == []
