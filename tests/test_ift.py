"""Building IFT data: real files of worked problems become steps, and nothing in them changes."""

import json
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from psr_ray.answers import extract_boxed
from psr_ray.config import SourceConfig
from psr_ray.data.benchmarks import phrases_of
from psr_ray.data.decontamination import Benchmarks
from psr_ray.data.files import Failures
from psr_ray.data.seed.division import (
    CLOSED,
    NotDividedError,
    boxed,
    checked,
    divide,
    divided_by_rule,
    is_unaltered,
    with_headers,
)
from psr_ray.data.seed.ift import make_ift
from psr_ray.data.sources import ift_rows, problems_of
from psr_ray.errors import PsrError
from psr_ray.method.steps import split_steps
from psr_ray.problems import Problem
from psr_ray.storage.shards import read_rows

DATA = ROOT / "tests" / "data"
GSM8K = DATA / "gsm8k_train_1000.jsonl"


def build(*arguments):
    command = [sys.executable, "jobs/build_seed.py", "ift", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "answers", "solved"),
    [
        ("gsm8k_test", ["18", "3"], True),
        ("math500", ["\\left( 3, \\frac{\\pi}{2} \\right)", "p - q"], True),
        ("gaokao2023en", ["$\\{x|-2\\leq x < 1\\}$", "$-1-\\sqrt{3}$"], False),
        ("olympiadbench", ["2", "$\\frac{1}{2 n+2}$"], True),
        ("aime24", ["204", "113"], True),
        ("amc23", ["27", "36"], False),
    ],
)
def test_real_benchmark_files_are_read(name, answers, solved):
    failures = Failures()
    problems = [p for _, p in problems_of(DATA / "formats" / f"{name}.jsonl", failures)]
    assert failures.items == []
    assert [p.answer for p in problems] == answers
    assert all(bool(p.solution) is solved for p in problems)
    assert len({p.id for p in problems}) == 2
    assert all("<<" not in (p.solution or "") for p in problems)


def test_a_thousand_problems_become_steps_in_time_and_unaltered(tmp_path):
    started = time.time()
    done = build("--problems", GSM8K, "--no-decontamination", "--out", tmp_path / "ift")
    assert done.returncode == 0, done.stderr
    assert time.time() - started < 20
    source = SourceConfig(kind="file", path=str(tmp_path / "ift" / "ift.parquet"))
    rows = ift_rows(source, 0, Failures())
    assert len(rows) >= 970
    given_problems = {p.id: p for _, p in problems_of(GSM8K, Failures())}
    for row in rows:
        problem = given_problems[row["id"]]
        assert is_unaltered(boxed(problem), row["solution"])
        assert extract_boxed(row["solution"]) == problem.answer
        assert len(split_steps(row["solution"])) >= 2


def test_problems_of_a_benchmark_are_left_out_and_counted(tmp_path):
    lines = GSM8K.read_text().splitlines()
    stolen = json.loads(lines[7])
    stolen["question"] = "Well: " + stolen["question"].upper().replace(" ", "  ")
    benchmark = tmp_path / "benchmark.jsonl"
    benchmark.write_text(json.dumps(stolen) + "\n")
    settings = ("--problems", GSM8K, "--benchmark", benchmark, "--out", tmp_path / "ift")
    done = build(*settings)
    assert done.returncode == 0, done.stderr
    assert "999 solutions kept, 1 left out" in done.stdout
    assert "1 in a benchmark" in done.stdout
    [left_out] = map(json.loads, (tmp_path / "ift" / "rejected.jsonl").read_text().splitlines())
    assert left_out["line"] == 8
    before = (tmp_path / "ift" / "ift.parquet").stat().st_mtime_ns
    assert build(*settings).stdout == done.stdout
    assert (tmp_path / "ift" / "ift.parquet").stat().st_mtime_ns == before


def test_one_must_say_what_is_to_be_kept_out(tmp_path):
    done = build("--problems", GSM8K, "--out", tmp_path / "ift")
    assert done.returncode == 2
    assert "--no-decontamination" in done.stderr
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(PsrError, match="holds no problem"):
        phrases_of([empty])
    amc = SourceConfig(kind="file", path=str(DATA / "formats" / "amc23.jsonl"))
    with pytest.raises(PsrError, match="not one solution could be kept"):
        make_ift([amc], tmp_path / "ift", Benchmarks(), 20)
    done = build(
        "--problems", DATA / "formats" / "math500.jsonl", "--no-decontamination", "--out", DATA
    )
    assert done.returncode == 2
    assert "holds other results" in done.stderr


def test_short_problems_are_found_by_all_words_and_others_by_thirteen():
    benchmarks = Benchmarks()
    benchmarks.add("short", ["What is 2+3?"])
    benchmarks.add("long", [" ".join(f"w{i}" for i in range(40))])
    assert benchmarks.found_in("what is 2 + 3") == "short"
    assert benchmarks.found_in("What is 2+3 and then some?") is None
    assert benchmarks.found_in("x " + " ".join(f"W{i}," for i in range(20, 33))) == "long"
    assert benchmarks.found_in(" ".join(f"w{i}" for i in range(20, 32))) is None
    assert benchmarks.found_in("") is None


def test_formulas_and_figures_are_not_cut():
    solution = (
        "We have\n\\[\na = b.\n\nC = d.\n\\]\nThen $x. Y = 2$ holds. So it costs $5. It is done.\n"
        "[asy]\ndraw(A);\nDraw(B);\n[/asy]\nThus $\\boxed{2}$."
    )
    steps = divide(solution)
    assert any("a = b.\n\nC = d." in step for step in steps)
    assert any("draw(A);\nDraw(B);" in step for step in steps)
    assert is_unaltered(solution, with_headers(steps))


@pytest.mark.parametrize(
    ("solution", "answer", "reason"),
    [
        (None, "2", "no solution"),
        ("It is so.", None, "no answer"),
        ("So.\nThus \\boxed{3}.", "2", "another answer"),
        ("\\boxed{2}", "2", "not divisible"),
        ("Step 2: so\nStep 1: \\boxed{2}", "2", "not numbered from 1"),
        ("Thus \\boxed{2}.\nWe also see that it is even.", "2", "last step has no boxed answer"),
        ("\n".join(f"line number {i}" for i in range(30)), "2", "too many steps"),
    ],
)
def test_what_cannot_be_learnt_from_is_left_out_with_its_reason(solution, answer, reason):
    with pytest.raises(NotDividedError, match=reason):
        divided_by_rule(Problem("1", "x?", answer, solution))


def test_a_division_that_changes_a_word_is_refused():
    problem = Problem("1", "x?", "2", "One and one.\nThat is \\boxed{2}.")
    assert checked(problem, "Step 1: One and one.\nStep 2: That is \\boxed{2}.", 20)
    with pytest.raises(NotDividedError, match="altered"):
        checked(problem, "Step 1: One plus one.\nStep 2: That is \\boxed{2}.", 20)


@given(
    st.lists(st.sampled_from(["$a. B$", "So x. ", "\n", "Then $", "\\[", "\\]", "1.5 ", "\\$3. "]))
)
def test_dividing_never_changes_a_text(parts):
    solution = "".join(parts)
    steps = divide(solution)
    assert is_unaltered(solution, with_headers(steps))
    formulas = ["".join(match[0].split()) for match in CLOSED.finditer(solution)]
    assert all(any(f in "".join(step.split()) for step in steps) for f in formulas)


def test_sources_that_number_their_problems_alike_lose_none(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        solved = {"question": f"{name}?", "answer": f"First {name}.\nThen so.\n#### 2"}
        (tmp_path / name / "p.jsonl").write_text(json.dumps(solved))
    sources = [
        SourceConfig(kind="file", path=str(tmp_path / n / "p.jsonl")) for n in ("one", "two")
    ]
    assert make_ift(sources, tmp_path / "out", Benchmarks(), 20)["kept"] == 2
    rows = read_rows([tmp_path / "out" / "ift.parquet"])
    assert sorted(row["id"] for row in rows) == ["2/p/1", "p/1"]


def test_rows_are_those_of_the_stage(tmp_path):
    source = SourceConfig(kind="file", path=str(DATA / "formats" / "math500.jsonl"))
    facts = make_ift([source], tmp_path / "out", Benchmarks(), 20)
    rows = list(read_rows([tmp_path / "out" / "ift.parquet"]))
    assert len(rows) == facts["kept"]
