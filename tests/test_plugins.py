"""The changes of docs/extending.md, done with a module of the user's own; and what does not fit."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from scripted import character_prompts, drive

from psr_ray.config import DPOConfig, JudgeConfig, MethodConfig, SourceConfig
from psr_ray.config.file import load_config
from psr_ray.data.files import Failures
from psr_ray.data.sources import ift_rows, problem_rows
from psr_ray.data.stage import write_data
from psr_ray.doctor import check_inputs
from psr_ray.errors import PsrError
from psr_ray.method.generation import Completion
from psr_ray.method.judge import Notes
from psr_ray.method.judges import judge_of
from psr_ray.method.ranking import ranking_of
from psr_ray.method.search import search_steps
from psr_ray.problems import Problem
from psr_ray.runs import RunDirectory
from psr_ray.stages import planned_stages
from psr_ray.training.losses import PairLogps, objective_of, step_dpo_loss

PLUGINS = ROOT / "tests" / "data" / "plugins"
PROMPTS = character_prompts()
MODULE = """
def takes_one(only): ...

class NoRank:
    def __init__(self, prompts, config): ...

def broken(source, seed):
    yield {"problem": "1+1?", "answer": "2"}
    yield ["no dict"]
    raise OSError("the server is away")
"""


@pytest.fixture(autouse=True)
def own_module(monkeypatch):
    monkeypatch.syspath_prepend(PLUGINS)


def smoke(*settings):
    return load_config(ROOT / "configs" / "smoke.yaml", ("judge.max_tokens=64", *settings))


def test_a_judge_of_ones_own():
    judge = judge_of(PROMPTS, JudgeConfig(mode="my_methods:CautiousJudge"))

    def read(text):
        return judge.read(Completion(tuple(map(ord, text)), "eos")).first_wins

    assert read("1+1=2, so A. [[A]]") == 1.0
    assert read("[[A]]") is None
    [request] = judge.requests(Notes("1+1?", []), ["2", "3"], [next(iter(both()))])
    assert PROMPTS.decode(request.prompt_ids).endswith("Judge:")


def both():
    from psr_ray.method.verdicts import both_orders

    return both_orders(2)


@pytest.mark.parametrize(
    ("body", "missing"),
    [
        ("class J:\n def __init__(s, a, b, c): ...\n def requests(s): ...\n def read(s): ...\n"
         " def target(s): ...", "prompt, prepare, lessons"),
        ("from psr_ray.method.judge import Judge\nclass J(Judge):\n def prompt(s): ...\n"
         " def read(s, c): ...", "target"),
    ],
)  # fmt: skip
def test_a_judge_without_all_its_methods_is_refused(tmp_path, monkeypatch, body, missing):
    name = f"my_judge_without_{missing.partition(',')[0]}"
    (tmp_path / f"{name}.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PsrError, match=f"has no method {missing}; docs/extending.md shows"):
        check_inputs(smoke(f"judge.mode={name}:J"))


def test_a_ranking_of_ones_own_chooses_the_steps():
    config = smoke("method.ranking=my_methods:FirstNumber", "search.num_candidates=2")
    steps = iter([["7\n", "5\n"], ["3$", "4$"]])
    task = search_steps(Problem("p", "?"), PROMPTS, ranking_of(config, PROMPTS), config)
    search, asked = drive(task, lambda *_: next(steps), None, PROMPTS)
    assert [candidate.text for candidate in search.chosen()] == ["7", "4"]
    assert [step.scores for step in search.steps] == [[7.0, 5.0], [3.0, 4.0]]
    assert len(asked) == 2  # no judge


def test_a_loss_of_ones_own():
    objective = objective_of(MethodConfig(objective="my_methods:ipo_loss"))
    values = (-3.0, -9.0, -5.0, -5.0, 4.0, 8.0)
    logps = PairLogps(*(torch.tensor([value], requires_grad=True) for value in values))
    loss = objective(logps, DPOConfig(beta=0.5))
    assert loss.tolist() == [((-3 + 5) - (-9 + 5) - 1) ** 2]
    loss.sum().backward()
    assert logps.chosen_B.grad.item() == 2 * 5
    assert objective_of(MethodConfig()) is step_dpo_loss


def test_a_source_of_ones_own(tmp_path):
    source = SourceConfig(kind="my_methods:sums", num=5)
    rows = list(problem_rows(source, "train", "search", 0, Failures()))
    assert [row["id"] for row in rows] == [f"sum-{i}" for i in range(5)]
    assert ift_rows(source, 0, Failures())[0]["solution"].startswith("Step 1: ")
    assert list(problem_rows(source, "train", "search", 1, Failures())) != rows
    own = source.model_copy(update={"seed": 0})
    assert list(problem_rows(own, "train", "search", 1, Failures())) == rows
    named_path = smoke("data.train=[{kind: 'my_methods:sums', path: org/dataset}]").data.train[0]
    assert named_path.path == "org/dataset"  # not a file: taken as it is
    named = "{kind: 'my_methods:sums', num: 6}"
    config = smoke(f"data.train=[{named}]", "num_iterations=2")
    rows = write_data(config, tmp_path)["rows"]
    assert [rows[f"search-{k}"] for k in range(1, config.num_iterations + 1)] == [6, 6]


def test_a_changed_module_redoes_what_it_made(tmp_path, monkeypatch):
    module = tmp_path / "my_changing.py"
    module.write_text(
        "class R:\n    def __init__(self, a, b): ...\n    def rank(self, s, c): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = smoke("method.ranking=my_changing:R", f"runs_dir={tmp_path}")

    def keys():
        return {p.stage.name: p.stage.key for p in planned_stages(RunDirectory(config))}

    before = keys()
    module.write_text(module.read_text() + "# changed\n")
    changed = {name for name, key in keys().items() if key != before[name]}
    assert "search-1" in changed
    assert not {"data", "sft", "evaluate-M1"} & changed


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("method.ranking=mine", "method.ranking: must be pairwise, points, random, longest, oracle "
         "or your own module:name; found 'mine'"),
        ("judge.mode=my_missing:Judge", "judge.mode my_missing:Judge: module my_missing cannot be "
         "imported (ModuleNotFoundError: No module named 'my_missing'); put its folder on PYTHONPATH"),
        ("method.ranking=my_methods:Nothing", "module my_methods defines no class or function Nothing"),
        ("method.objective=my_parts:takes_one", "method.objective my_parts:takes_one: must take "
         "(logps, settings), but takes_one does not (too many positional arguments); docs/extending.md"),
        ("method.ranking=my_parts:NoRank", "method.ranking my_parts:NoRank: has no method rank"),
        ("data.heldout={kind: 'my_parts:takes_one'}", "data source my_parts:takes_one: must take "
         "(source, seed)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line_before_any_work(tmp_path, monkeypatch, setting, message):
    (tmp_path / "my_parts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PsrError, match=re.escape(message)) as raised:
        check_inputs(smoke(setting))
    assert len(str(raised.value).splitlines()) == 1


def test_a_module_that_is_not_here_is_named_before_anything_is_called_complete(tmp_path):
    config = smoke("method.ranking=my_absent:R", f"runs_dir={tmp_path}")
    with pytest.raises(PsrError, match="my_absent:R: its module is not found here; start from"):
        planned_stages(RunDirectory(config))


def test_a_source_that_fails_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "my_parts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    failures = Failures()
    with pytest.raises(PsrError, match=r"data source my_parts:broken: the server is away"):
        list(problem_rows(SourceConfig(kind="my_parts:broken"), "train", "search", 0, failures))
    assert [item["reason"] for item in failures.items] == ["expected a dict, found list"]


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.long
def test_an_iteration_with_ones_own_judge_ranking_and_loss(tmp_path):
    """By the command, started where the module is: M1 searches with the user's ranking and trains by the
    user's loss, all in Ray's processes."""
    command = Path(sys.executable).with_name("psr-ray")
    settings = (
        f"runs_dir={tmp_path}", "num_iterations=1", "method.ranking=my_methods:FirstNumber",
        "method.objective=my_methods:hinge_loss", "judge.mode=my_methods:CautiousJudge",
        "judge.max_tokens=64",
    )  # fmt: skip
    done = subprocess.run(
        [command, "run", "--config", ROOT / "configs" / "smoke.yaml"]
        + [word for setting in settings for word in ("--set", setting)],
        cwd=PLUGINS, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "smoke" / "summary.json").read_text())
    assert [model["name"] for model in summary["models"]] == ["M0", "M1", "M2"]
