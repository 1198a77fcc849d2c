"""Whatever comes in, what parses it returns a value or says what is wrong: it never crashes or hangs.

``make fuzz`` gives each of these far more inputs (``FUZZ_EXAMPLES``) and prints how many.
"""

import contextlib
import json
import os
import threading
import time

import psutil
import pytest
import yaml
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.heads import children
from psr_ray.answers import extract_boxed, is_equal, isolated
from psr_ray.answers.normal import normal
from psr_ray.config import JudgeConfig, SourceConfig
from psr_ray.config.file import load_config
from psr_ray.data.files import Failures
from psr_ray.data.rows import TASK_SCHEMA
from psr_ray.data.sources import problem_rows
from psr_ray.errors import PsrError
from psr_ray.method.judge import parse_points, parse_verdict
from psr_ray.method.judges import judge_of
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.method.steps import split_steps, trim_to_step
from psr_ray.runs import Stage
from psr_ray.storage.files import read_json
from psr_ray.storage.shards import read_rows, write_rows

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))
# Seconds of one input; grading's own limit is tested apart.
DEADLINE = 2000
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=DEADLINE,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
PIECES = [
    "[[A]]",
    "[[B]]",
    "Score: ",
    "Step 1:",
    "\\boxed{",
    "}",
    "{",
    "\n",
    "####",
    "<|endoftext|>",
]
pieces = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=8)), max_size=12).map("".join)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | pieces,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(pieces, inner, max_size=3),
    max_leaves=6,
)
tried = {}


def encoded(text):
    return text.encode("utf-8", "replace")


@pytest.fixture(scope="module", autouse=True)
def table():
    """Writes how many inputs each class had, for ``make fuzz``."""
    yield
    if "FUZZ_TABLE" in os.environ:
        with open(os.environ["FUZZ_TABLE"], "w") as file:
            json.dump(tried, file)


def count(name):
    tried[name] = tried.get(name, 0) + 1


@fuzz
@given(pieces)
def test_verdicts_and_points(text):
    count("verdicts")
    assert parse_verdict(text).first_wins in (None, 0.0, 1.0)
    assert parse_points(text) in (None, 0, 1, 2, 3, 4, 5)


@fuzz
@given(pieces, st.lists(st.integers(0, 300), max_size=20))
def test_steps(text, ids):
    count("steps")
    assert all(step.startswith("Step ") for step in split_steps(text))

    def decode(some):
        return "".join(chr(97 + i % 26) + ("\n" if i % 7 == 0 else "") for i in some)

    trimmed, found = trim_to_step(ids, "\n", decode)
    assert tuple(ids[: len(trimmed)]) == trimmed
    assert found is ("\n" in decode(ids))
    assert trimmed or not ids


@fuzz
@given(pieces, pieces)
def test_answers(gold, text):
    count("answers")
    answer = extract_boxed(text)
    assert answer is None or answer in text
    assert normal(gold) == normal(gold.strip())
    if answer is None or answer.strip() == gold.strip():
        assert is_equal(gold, answer) is (answer is not None)


FORMULA = st.recursive(
    st.sampled_from(["1", "0.5", "x", "-3", "\\pi", "50\\%", "\\infty"]) | pieces,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda ab: f"\\frac{{{ab[0]}}}{{{ab[1]}}}"),
        st.tuples(inner, inner).map(lambda ab: f"{ab[0]}^{{{ab[1]}}}"),
        st.tuples(inner, inner).map(lambda ab: f"({ab[0]}, {ab[1]})"),
        inner.map(lambda a: f"\\sqrt{{{a}}}"),
    ),
    max_leaves=5,
)


@settings(parent=fuzz, max_examples=max(EXAMPLES // 50, 20), deadline=20_000)
@given(FORMULA, FORMULA)
def test_formulas_are_graded_in_time(gold, answer):
    count("formulas")
    assert is_equal(gold, answer) in (True, False)


@pytest.mark.parametrize(
    "answer", ["9**9**9", "9^{9^{9^9}}", "(" * 400, "{" * 400, "1" * 10**6, "\\frac{" * 80 + "1"]
)
def test_a_malicious_answer_costs_at_most_its_time_limit(answer):
    started = time.time()
    assert not is_equal("\\frac{1}{3}", answer)
    assert time.time() - started < 15
    assert is_equal("\\frac{1}{2}", "\\dfrac{2}{4}")  # the next one is graded as ever


def test_a_grading_process_that_is_killed_is_replaced(monkeypatch):
    monkeypatch.setattr(isolated, "ANSWER_S", 10)
    assert is_equal("\\frac{1}{3}", "\\dfrac{2}{6}")
    graders = children(os.getpid(), "spawn_main")
    for process in graders:
        process.kill()
    psutil.wait_procs(graders)
    assert graders
    assert is_equal("\\frac{2}{5}", "\\dfrac{4}{10}")


def test_a_right_answer_is_right_though_its_grading_process_is_killed_at_it():
    graded = []

    def grade():
        while len(graded) < 200:
            number = len(graded) + 2
            graded.append(
                isolated.equal(f"\\frac{{1}}{{{number}}}", f"\\dfrac{{2}}{{{2 * number}}}")
            )

    thread = threading.Thread(target=grade)
    thread.start()
    for _ in range(2):
        before = len(graded)
        while len(graded) < before + 20:
            time.sleep(0.01)
        for process in children(os.getpid(), "spawn_main"):
            process.kill()
    thread.join()
    assert all(graded)


KEYS = ["problem", "question", "answer", "solution", "id", "plan", "steps_so_far", "unique_id"]
records = st.dictionaries(st.sampled_from(KEYS) | pieces, values, max_size=5)
lines = st.one_of((records.map(json.dumps) | pieces).map(encoded), st.binary(max_size=12))


@fuzz
@given(st.lists(lines, max_size=6))
def test_problem_files(tmp_path, content):
    count("problem files")
    path = tmp_path / "problems.jsonl"
    path.write_bytes(b"\n".join(content))
    failures = Failures()
    try:
        source = SourceConfig(kind="file", path=str(path), num=9)
        rows = list(problem_rows(source, "ift", "solve", 0, failures))
    except PsrError:
        return
    write_rows(tmp_path / "rows.parquet", rows, TASK_SCHEMA)
    back = list(read_rows([tmp_path / "rows.parquet"]))
    assert [row["id"] for row in back] == [row["id"] for row in rows]


SETTINGS = yaml.safe_load((ROOT / "configs" / "smoke.yaml").read_text())
NAMES = [*SETTINGS, *(f"{k}.{n}" for k, v in SETTINGS.items() if isinstance(v, dict) for n in v)]
assignments = st.tuples(
    st.sampled_from(NAMES) | pieces, values.map(lambda v: yaml.safe_dump(v)) | pieces
).map("=".join)


@fuzz
@given(st.lists(assignments, max_size=3))
def test_overrides(overrides):
    count("config overrides")
    with contextlib.suppress(PsrError):
        load_config(ROOT / "configs" / "smoke.yaml", overrides)


@fuzz
@given(
    st.one_of(
        pieces.map(encoded),
        st.binary(max_size=40),
        values.map(lambda v: encoded(yaml.safe_dump(v))),
    )
)
def test_configs(tmp_path, content):
    count("configs")
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(PsrError):
        load_config(path)


@fuzz
@given(st.one_of(st.binary(max_size=40), values.map(lambda v: json.dumps(v).encode())))
def test_manifests(tmp_path, content):
    count("manifests")
    path = tmp_path / "_MANIFEST.json"
    path.write_bytes(content)
    stage = Stage("search-1", tmp_path, "key")
    with contextlib.suppress(PsrError):
        assert stage.is_complete is False
        assert isinstance(read_json(path), dict)


@pytest.fixture(scope="module")
def prompts():
    config = load_config(ROOT / "configs" / "smoke.yaml")
    return PromptBuilder(load_tokenizer(config.model.base), config.prompts)


@fuzz
@given(st.lists(pieces, min_size=4, max_size=4))
def test_no_text_becomes_a_control_token(prompts, texts):
    count("hostile prompts")
    problem, before, a, b = texts
    special = set(prompts.tokenizer.all_special_ids)
    for ids in (
        prompts.solve_ids(problem),
        judge_of(prompts, JudgeConfig()).prompt(problem, [before], a, b),
    ):
        assert not special & set(ids)
