"""EFT data: valued step trees, PRM800K, judgements in both orders, a server that answers or does not."""

import contextlib
import time
from collections import Counter
from pathlib import Path

import pytest
from json_server import JsonHandler, serving
from scripted import character_prompts, drive

from actors.endpoint import Endpoint
from actors.seed import shared_notes, written
from psr_ray.config.file import load_config
from psr_ray.config.seed import EndpointConfig
from psr_ray.data.rows import problem_row
from psr_ray.data.seed.eft import (
    judge_questions,
    keep,
    prm800k_pairs,
    split_by_problem,
    tree_pairs,
)
from psr_ray.errors import PsrError
from psr_ray.inference.records import text_row
from psr_ray.inference.rollouts import tree_task
from psr_ray.method.judges import judge_of
from psr_ray.problems import Problem

GOOD, BAD = "Step 1: 2+2=4\n", "Step 1: 2+2=5\n"
PROBLEM = Problem(id="p", text="2+2?", answer="4")


def tree():
    """Candidates right and wrong; rollouts end as their first step says, one in four goes astray."""

    def sample(prompt, num):
        if GOOD not in prompt and BAD not in prompt:
            return [GOOD, BAD] * (num // 2)
        value = 4 if GOOD in prompt else 5
        return [f"Step 2: \\boxed{{{value if i % 4 else 0}}}$" for i in range(num)]

    config = load_config("configs/smoke.yaml")
    task = tree_task(problem_row("tree", PROBLEM), character_prompts(), config)
    found, _ = drive(task, sample, lambda *_: "", character_prompts())
    return found


def test_a_tree_values_steps_by_graded_rollouts_and_continues_with_the_best():
    found = tree()
    values = {c["text"]: c["value"] for c in found["steps"][0]["candidates"]}
    assert values == {GOOD.strip(): 0.75, BAD.strip(): 0.0}
    assert found["end"] == "finished"
    assert found["steps"][1]["steps_so_far"] == [GOOD.strip()]


def test_pairs_are_best_against_worst_where_the_gap_is_large_enough():
    first, second = tree_pairs(tree(), 0.5)
    assert (first.better, first.worse, first.gap) == (GOOD.strip(), BAD.strip(), 0.75)
    assert second.gap == 1.0  # the boxed 4 against the boxed 0
    assert [p.gap for p in tree_pairs(tree(), 0.8)] == [1.0]


@pytest.mark.parametrize(
    ("verdicts", "reason"),
    [
        ("AB", None),
        ("AA", "judge changes with the order"),
        ("BA", "judge against values"),
        ("A?", "no verdict"),
    ],
)
def test_a_judge_must_agree_with_the_values_in_both_orders(verdicts, reason):
    [pair, *_] = tree_pairs(tree(), 0.5)
    answers = {
        f"{pair.problem.id}#{right}": text_row("", f"because [[{verdict}]]", 3, "stop")
        for right, verdict in zip("AB", verdicts, strict=True)
    }
    kept, rejected = keep([pair], answers, seed=0)
    assert [item["reason"] for item in rejected] == ([reason] if reason else [])
    for judged in kept:
        better = judged.step_a if judged.verdict == "A" else judged.step_b
        assert better == pair.better
        assert judged.judgement.endswith(f"[[{judged.verdict}]]")
    assert len(keep([pair], {}, seed=0)[1]) == 1


def test_no_problem_is_in_training_and_test():
    pairs = [
        next(tree_pairs(tree() | {"id": f"{i}", "problem": f"{i // 2}"}, 0.5)) for i in range(40)
    ]
    answers = {
        f"{p.problem.id}#{v}": text_row("", f"[[{v}]]", 1, "stop") for p in pairs for v in "AB"
    }
    kept, _ = keep(pairs, answers, seed=0)
    train, test = split_by_problem(kept, 500, seed=0)
    assert len(test) == 8
    assert len(train) == 32
    assert not {row["problem"] for row in train} & {row["problem"] for row in test}


def test_prm800k_gives_pairs_after_the_steps_that_were_chosen():
    def step(good, bad, chosen=0):
        texts = [{"text": good, "rating": 1}, {"text": bad, "rating": -1}]
        return {"completions": texts, "human_completion": None, "chosen_completion": chosen}

    record = {
        "question": {"problem": "2+2?", "ground_truth_answer": "4"},
        "label": {"steps": [step("add", "subtract"), step("4", "0")]},
    }
    first, second = prm800k_pairs(record, Path("phase2.jsonl"), 7)
    assert (first.problem.id, first.better, first.worse) == (
        "phase2/7/step-1", "Step 1: add", "Step 1: subtract",
    )  # fmt: skip
    assert second.steps_so_far == ["Step 1: add"]
    [again, _] = prm800k_pairs(record, Path("phase2.jsonl"), 7, "2/")
    assert again.problem.id == "2/phase2/7/step-1"
    with pytest.raises(ValueError, match="no record of PRM800K"):
        prm800k_pairs({"question": {}}, Path("phase2.jsonl"), 7)


class Server(JsonHandler):
    """Says what its address asks for: ``/good``, ``/nonsense`` or ``/denied``. At ``/moody``, while it
    is ``broken``, it is late for prompts with "late" and makes no sense for those with "odd"."""

    broken, prompts = True, Counter[str]()

    def do_GET(self):
        self.say({"error": {"message": "no"}}, 401 if self.path.startswith("/denied") else 404)

    def do_POST(self):
        prompt = self.asked()["messages"][0]["content"]
        self.prompts[prompt] += 1
        message = {"role": "assistant", "content": "Step 1: yes"}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
        good = self.path.startswith("/good")
        if self.path.startswith("/moody"):
            good = not (self.broken and "odd" in prompt)
            time.sleep(3 if self.broken and "late" in prompt else 0)
        with contextlib.suppress(BrokenPipeError):  # who asked has gone
            self.say(body | ({"choices": choices} if good else {}))


@pytest.fixture(scope="module")
def server():
    with serving(Server) as address:
        yield address


def endpoint(url):
    settings = EndpointConfig(url=url, model="m", max_retries=0, timeout_s=5)
    return Endpoint(settings, max_tokens=10)


def test_a_server_answers_nonsense_or_is_not_there(server):
    row = problem_row("write", PROBLEM)
    assert endpoint(f"{server}/good").submit(row).result()["text"] == "Step 1: yes"
    with pytest.raises(ValueError, match="without choices"):
        endpoint(f"{server}/nonsense").submit(row).result()
    with pytest.raises(PsrError, match="OPENAI_API_KEY"):
        endpoint(f"{server}/denied")
    with pytest.raises(PsrError, match=r"seed_data.endpoint.url"):
        endpoint("http://127.0.0.1:9")


@pytest.mark.slow
def test_what_a_server_answered_is_kept_and_the_rest_is_asked_for_again(server, tmp_path):
    settings = f"{{url: {server}/moody, model: m, max_retries: 0, timeout_s: 1}}"
    config = load_config(
        "configs/smoke.yaml", (f"seed_data.endpoint={settings}", "engine.max_failed_share=0.2")
    )
    prompts = {
        f"{kind}-{i}": f"a {kind} one, {i}" for kind in ("plain", "late", "odd") for i in (1, 2)
    }
    with pytest.raises(PsrError, match=r"4 of 6 write rows failed .*rerun the command") as error:
        written(config, tmp_path / "written", prompts, "")
    assert "APITimeoutError" in str(error.value)
    assert "an answer without choices" in str(error.value)
    Server.broken = False
    rows = written(config, tmp_path / "written", prompts, "")
    assert {name: row["text"] for name, row in rows.items()} == dict.fromkeys(
        prompts, "Step 1: yes"
    )
    assert [Server.prompts[prompts[name]] for name in prompts] == [1, 1, 2, 2, 2, 2]


def answered(questions, write):
    """A teacher's rows by the ids of its questions; ``write(question)`` gives a text."""
    return {name: text_row(name, write(text), 9, "stop") for name, text in questions.items()}


@pytest.mark.parametrize(
    ("critiques", "broken", "reason"),
    [
        (False, {"finish": "length"}, "work: cut off"),
        (True, {"text": " "}, "work: empty"),
        (True, {"error": "x"}, "work: no answer"),
    ],
)
def test_pairs_for_the_shared_mode_have_what_the_judge_is_to_write(
    tmp_path, critiques, broken, reason
):
    """The teacher works the step out, criticises, judges by both; what is not finished is left out."""
    config = load_config("configs/smoke.yaml", ("judge.mode=shared", "judge.max_tokens=64",
                                                f"judge.critiques={critiques}"))  # fmt: skip
    prompts, asked = character_prompts(), []

    def write(folder, questions):
        asked.append(folder.name)
        rows = answered(questions, lambda question: f"{folder.name} of {len(question)}")
        if folder.name == "work":
            rows["p/step-2"] = rows["p/step-2"] | broken
        return rows

    pairs = list(tree_pairs(tree(), 0.5))
    notes, reasons = shared_notes(config, pairs, prompts, tmp_path, write)
    assert reasons == {"p/step-2": reason}
    assert asked == (["work", "critiques"] if critiques else ["work"])
    assert list(notes) == ["p/step-1"]
    questions = judge_questions(pairs, prompts, notes)
    assert sorted(questions) == ["p/step-1#A", "p/step-1#B"]
    for right, question in questions.items():
        first = GOOD if right.endswith("A") else BAD
        assert f"A: {first.strip()}" in question
        assert "Next:\n\nwork of" in question
        assert ("critiques of" in question) == critiques
    verdicts = {name: text_row(name, f"[[{name[-1]}]]", 9, "stop") for name in questions}
    [kept], _ = keep(pairs[:1], verdicts, 0, notes)
    assert kept.work == notes["p/step-1"].work
    better, worse = (kept.critique_a, kept.critique_b)[:: 1 if kept.verdict == "A" else -1]
    assert (better, worse) == notes["p/step-1"].critiques
    judge_of(prompts, config.judge).lessons(kept)  # M1 can learn it
    explains = load_config("configs/smoke.yaml")
    assert shared_notes(explains, pairs, prompts, tmp_path, write) == (None, {})
