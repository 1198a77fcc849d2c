"""Pairs of a search's own steps, labelled without anyone's help, for the judge to learn from."""

from types import SimpleNamespace

import pytest
from conftest import ROOT
from scripted import character_prompts, completion, converse, judgement
from test_training import PROMPTS, dpo_job

from psr_ray.config.file import load_config
from psr_ray.data.rows import TASK_SCHEMA, problem_row
from psr_ray.errors import PsrError
from psr_ray.inference.refresh import StepPair, judged_task_rows, judgement_for, value_gap
from psr_ray.inference.tasks import search_task
from psr_ray.method.judges import judge_of
from psr_ray.method.preferences import PREFERENCE_SCHEMA
from psr_ray.method.steps import Candidate
from psr_ray.method.verdicts import Verdict
from psr_ray.problems import Problem
from psr_ray.storage.shards import write_rows, write_shard
from psr_ray.training.rows import dpo_data

RIGHT, WRONG = "Step 1: 10+15=25\n", "Step 1: 10+15=26\n"
TWENTY, OTHER = "Step 2: 25-5=20 \\boxed{20}$", "Step 2: 26-5=21 \\boxed{21}$"
ENDS = {RIGHT: [TWENTY] * 8, WRONG: [OTHER] * 8}
MOSTLY = {RIGHT: [TWENTY] * 8, WRONG: [TWENTY] * 2 + [OTHER] * 6}
PROBLEM = Problem("p", "Ada has 10. 15 more. 5 fewer.", "20", plan="10+15-5")


def config(*settings):
    base = ["search.num_candidates=2", "model.max_length=2000", "dpo.tokens_per_pass=2048"]
    base += ["judge.mode=explain", "judge.max_tokens=64", "sft.tokens_per_pass=2048"]
    base += ["refresh.num_judgements=4", "refresh.pairs_per_problem=1"]
    return load_config(ROOT / "configs" / "smoke.yaml", [*base, *settings])


def refreshed(config, *, says, ends=ENDS):
    """The judged pairs of a search of which step 1 alone has two candidates. ``says(a, b, n)`` are n
    judgements, ``ends`` how eight solutions go on from either step."""
    prompts = character_prompts()

    def answer(request):
        prompt, num = prompts.decode(request.prompt_ids), request.num_samples
        if prompt.endswith("Judge:"):
            a, b = (
                next(
                    line[3:] for line in reversed(prompt.splitlines()) if line.startswith(f"{x}: ")
                )
                for x in "AB"
            )
            return [judgement(text) for text in says(a, b, num)]
        if RIGHT not in prompt and WRONG not in prompt:
            return [completion(RIGHT), completion(WRONG)]
        step = RIGHT if RIGHT in prompt else WRONG
        return [completion(text) for text in ends[step][:num]]

    row, asked = converse(search_task(problem_row("search", PROBLEM), prompts, config), answer)
    return row, asked


def honest(a, b, num):
    return [f"so [[{'A' if '=25' in a else 'B'}]]"] * num


def fooled(a, b, num):
    return [f"so [[{'A' if '=26' in a else 'B'}]]"] * num


def always_a(a, b, num):
    return ["so [[A]]"] * num


def test_judgements_that_agree_label_a_pair_and_are_learned_in_both_orders():
    row, _ = refreshed(config("refresh.num_rollouts=0"), says=honest)
    found = [(j["step_a"], j["verdict"], j["judgement"], j["by"]) for j in row["judged"]]
    assert found == [
        ("Step 1: 10+15=25", "A", "so [[A]]", "agreement"),
        ("Step 1: 10+15=26", "B", "so [[B]]", "agreement"),
    ]
    assert [j["is_right"] for j in row["judged"]] == [True, True]
    assert row["num_refresh_tokens"] == 2 * 4 * len("so [[A]]$")
    [learned, _] = judged_task_rows(row)
    assert (learned["problem"], learned["verdict"]) == (PROBLEM.text, "A")


def test_rollouts_label_where_the_judge_says_the_same_letter():
    row, _ = refreshed(config("refresh.num_rollouts=0"), says=always_a)
    assert row["judged"] == []
    row, asked = refreshed(config(), says=always_a, ends=MOSTLY)
    [judged] = row["judged"]  # one order alone has a judgement that names the better step
    assert (judged["step_a"], judged["verdict"]) == ("Step 1: 10+15=25", "A")
    assert (judged["by"], judged["gap"]) == ("rollouts", 0.75)
    assert sum(request.num_samples == 8 for request in asked) == 2
    assert refreshed(config("refresh.min_gap=0.8"), says=always_a, ends=MOSTLY)[0]["judged"] == []
    most = config("refresh.min_majority=0.7")  # 10 of 16 have the answer of most of them
    assert refreshed(most, says=always_a, ends=MOSTLY)[0]["judged"] == []


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("place", ["step", "before"])
def test_a_box_that_was_there_before_the_rollout_is_its_answer(place, ended):
    box = "so \\boxed{20}"
    step = SimpleNamespace(number=2, steps_so_far=["Step 1"] if place == "step" else [box])
    boxed = Candidate((1,), box if place == "step" else "Done.", 1, ended)
    open_one = Candidate((2,), "Let us see.", 1, False)
    rolled = [[completion("Checked.$")] * 8] * (not ended)
    rolled.append([completion(text) for text in [TWENTY] * 2 + [OTHER] * 6])
    gap = value_gap(
        StepPair(step, (boxed, open_one)), rolled, character_prompts(), config().refresh
    )
    assert gap == 0.75


def test_a_drawn_vote_says_nothing():
    row, _ = refreshed(config(), says=always_a)
    assert row["judged"] == []


def test_a_pair_on_which_rollouts_and_judgements_differ_is_left_out():
    row, _ = refreshed(config(), says=fooled, ends=MOSTLY)
    assert row["judged"] == []
    [first, second] = refreshed(config(), says=honest, ends=MOSTLY)[0]["judged"]
    assert (first["by"], second["by"]) == ("both", "both")
    wrong = refreshed(config("refresh.num_rollouts=0"), says=fooled)[0]["judged"]
    assert [judged["is_right"] for judged in wrong] == [False, False]


def test_the_text_that_is_learned_ends_with_the_letter_and_means_it():
    judge = judge_of(character_prompts(), config().judge)
    sampled = [
        Verdict(0.3, "x [[A]]"),  # sampled against its own probability
        Verdict(0.7, "y [[B]]"),
        Verdict(0.2, "once [[B]]"),
        Verdict(0.1, "twice [[B]]"),
        Verdict(0.1, "twice [[B]]"),
        Verdict(None, "no letter"),
    ]
    assert judgement_for("B", sampled, judge) == "twice [[B]]"
    assert judgement_for("A", sampled, judge) is None


def test_the_truth_labels_where_the_control_asks_for_it():
    row, _ = refreshed(config("refresh.labels=truth", "refresh.num_rollouts=0"), says=fooled)
    assert row["judged"] == []  # no judgement names the right step
    row, _ = refreshed(config("refresh.labels=truth", "refresh.num_rollouts=0"), says=always_a)
    assert [judged["by"] for judged in row["judged"]] == ["truth"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("judge.mode=shared",), "`refresh` needs `judge.mode` explain or verdict"),
        (("method.unit=solution",), "`refresh` is for `method.unit: step`"),
    ],
)
def test_what_refresh_does_not_go_with_is_said(settings, said):
    with pytest.raises(PsrError, match=said):
        config(*settings)


def test_batches_have_own_and_older_judgements(tmp_path):
    row, _ = refreshed(config("refresh.num_rollouts=0"), says=honest)
    judged = judged_task_rows(row)
    pair = dict.fromkeys(PREFERENCE_SCHEMA.names) | {
        "id": "p#1", "problem_id": "p", "step_number": 1,
        "prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3],
    }  # fmt: skip
    write_shard(tmp_path / "pairs", [pair], PREFERENCE_SCHEMA)
    older = [judged[0] | {"id": f"older-{number}"} for number in range(3)]
    write_rows(tmp_path / "eft.parquet", older, TASK_SCHEMA)

    def batch(*settings):
        work = dpo_data(dpo_job(config("refresh.per_batch=4", *settings), tmp_path), PROMPTS)
        [places] = work.plan
        return sorted(work.examples[place].id for place in places)

    assert {name.split("-")[0] for name in batch()} == {"older"}  # a round without own ones
    assert len(batch()) == 4
    write_shard(tmp_path / "judged", judged, TASK_SCHEMA)
    assert [name.startswith("older") for name in batch()] == [True, True, False, False]
    assert [name.startswith("older") for name in batch("refresh.replay=0")] == [False] * 4
