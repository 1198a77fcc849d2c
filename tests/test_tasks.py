"""Tasks whose judgements do not fit in the model's length; those of searches are in test_search.py."""

import math

import pytest
from conftest import ROOT
from scripted import character_prompts, completion, converse

from psr_ray.config.file import load_config
from psr_ray.inference.tasks import TASKS, failed_row
from psr_ray.method.generation import Completion
from psr_ray.method.judge import JudgementTooLong

PROMPTS = character_prompts()
ROW = {"id": "p", "problem": "1+1?", "answer": None, "solution": None, "plan": None}


def config(max_length):
    return load_config(
        ROOT / "configs" / "smoke.yaml",
        (
            f"model.max_length={max_length}",
            "search.max_step_tokens=10",
            "judge.mode=verdict",
            "sft.tokens_per_pass=4096",
            "dpo.tokens_per_pass=4096",
        ),
    )


def drive(task, own_step):
    """Run a task: steps are ``own_step``, verdicts always A."""

    def answer(request):
        if request.purpose == "compare":
            return [Completion((65,), "length", (math.log(0.9), math.log(0.1)))]
        return [completion(own_step)]

    return converse(task, answer)


def probe(step):
    texts = [f"{step} {letter}\n" for letter in "ab"]
    candidates = [
        {"text": text.strip(), "token_ids": list(map(ord, text)), "count": 1, "ended": False}
        for text in texts
    ]
    prefix = list(PROMPTS.solve_ids(ROW["problem"]))
    return ROW | {"candidates": candidates, "prefix_ids": prefix, "steps_so_far": []}


def test_a_fixed_pair_that_leaves_no_room_is_a_failed_row_with_its_lengths():
    row = ROW | {
        "task": "judge", "steps_so_far": [], "step_a": "x" * 400, "step_b": "y",
        "judgement": "", "verdict": "A", "work": "", "critique_a": "", "critique_b": "",
    }  # fmt: skip
    with pytest.raises(JudgementTooLong, match=r"tokens \+ 1 for the judgement > max_length 300"):
        drive(TASKS["judge"].run(row, PROMPTS, config(300)), "")
    failed = failed_row(row, JudgementTooLong("a judge's prompt of 9 tokens"))
    assert failed["error"] == "JudgementTooLong: a judge's prompt of 9 tokens"
    done, asked = drive(TASKS["judge"].run(row, PROMPTS, config(600)), "")
    assert [done["first_order"], done["second_order"]] == pytest.approx([0.9, 0.9])
    assert len(asked) == 2


def test_a_probe_without_room_for_the_own_step_ranks_the_others_alone():
    longest = max(len(ids) for ids in judged_lengths("short", "own step " * 8))
    tight = config(longest - 1)
    row, asked = drive(TASKS["probe"].run(probe("short"), PROMPTS, tight), "own step " * 8 + "\n")
    assert len(row["scores"]) == 2
    assert row["own_text"] is None
    assert row["own_win"] is None
    assert (
        len([r for r in asked if r.purpose == "compare"]) == 2
    )  # M1's two candidates, both orders
    row, _ = drive(TASKS["probe"].run(probe("short"), PROMPTS, config(600)), "own step\n")
    assert row["own_text"] == "own step"
    assert row["own_win"] is not None


def judged_lengths(step, own):
    """Prompts of all judgements of a probe with room for them, as token ids with one more token."""
    _, asked = drive(TASKS["probe"].run(probe(step), PROMPTS, config(2000)), own + "\n")
    return [(*r.prompt_ids, 0) for r in asked if r.purpose == "compare"]
