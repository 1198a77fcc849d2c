"""`judge.mode: shared`: the step worked out once, critiques, and what M1 learns of them."""

import pytest
from scripted import character_prompts, completion, converse, judgement, prefers

from psr_ray.config import Config, JudgeConfig
from psr_ray.config.file import load_config
from psr_ray.data.rows import TASK_SCHEMA, pair_row
from psr_ray.embedded.seed import judged_pairs
from psr_ray.errors import PsrError
from psr_ray.inference.search_rows import search_row
from psr_ray.measures.searches import figures_of
from psr_ray.method.generation import Completion
from psr_ray.method.ranking import ranking_of
from psr_ray.method.search import search_steps
from psr_ray.problems import Problem
from psr_ray.storage.shards import write_rows
from psr_ray.training.examples import check_eft, eft_example
from psr_ray.training.microbatches import sft_trees

PROMPTS = character_prompts()

PROBLEM = Problem("p", "How many?", answer="7", plan="3+4")

SHARED = JudgeConfig(mode="shared", critiques=True, max_tokens=60)

GOOD_FIRST = prefers("good", "fair")


def searched(sample, judging, judge=GOOD_FIRST, *, w=3, **search):
    """A search by `judge.mode: shared`: works out ``work N``, criticises, prefers what it is told to."""
    config = Config(
        name="test",
        model={"base": "none", "max_length": 6000},
        search={"num_candidates": w, "max_step_tokens": 40, "max_steps": 3, **search},
        judge=judging,
    )
    task = search_steps(PROBLEM, PROMPTS, ranking_of(config, PROMPTS), config)

    def answer(request):
        prompt = PROMPTS.decode(request.prompt_ids)
        if request.purpose == "work":
            return [completion(" to be good$")]
        if request.purpose == "critique":
            return [completion(" fine$")]
        if request.purpose == "compare":
            shown = prompt.split("\n")
            a, b = (next(line[3:] for line in reversed(shown) if line.startswith(f"{x}: "))
                    for x in "AB")  # fmt: skip
            letter = judge(a.split(" fine")[0], b.split(" fine")[0])[5]
            done = judgement(letter)
            return [Completion(done.token_ids[:1], "length", done.choice_logprobs)]
        return [completion(text) for text in sample(prompt, request.num_samples)]

    return converse(task, answer)


def test_the_step_is_worked_out_once_and_every_comparison_begins_with_it():
    def sample(prompt, n):
        return ["good\n", "fair\n", "bad\n"] if "good" not in prompt else ["end$"] * n

    search, asked = searched(sample, SHARED)
    purposes = [request.purpose for request in asked]
    assert purposes[:5] == ["solve", "work", "critique", "critique", "critique"]
    assert purposes.count("compare") <= 6
    assert [c.text for c in search.chosen()] == ["good", "end"]
    compared = [PROMPTS.decode(r.prompt_ids) for r in asked if r.purpose == "compare"]
    start = "How many?\nNext: to be good\n"
    assert all(prompt.startswith(start) for prompt in compared)
    assert f"{start}A: good fine\nB: bad fine\nVerdict: [[" in compared
    assert all(r.max_tokens == 1 for r in asked if r.purpose == "compare")
    row = search_row(search)
    assert row["steps"][0]["work"] == " to be good"
    assert {c["critique"] for c in row["steps"][0]["candidates"]} == {" fine"}
    assert row["num_work_tokens"] == len(" to be good$")
    assert row["num_critique_tokens"] == 3 * len(" fine$")
    assert row["num_compare_tokens"] == purposes.count("compare")
    assert row["num_judge_tokens"] == sum(
        row[f"num_{purpose}_tokens"] for purpose in ("work", "critique", "compare")
    )
    figures = figures_of([row]).summary()
    assert figures["num_work_tokens"] == row["num_work_tokens"]
    assert figures["num_pairs_found"] == 1
    assert figures["tokens_per_pair"] == row["num_sampled_tokens"] + row["num_judge_tokens"]


def test_what_was_written_before_a_rollback_is_not_written_again():
    def always_a(_a, _b):
        return "so [[A]]"

    search, asked = searched(
        lambda prompt, n: ["x\n", "y\n"], SHARED, always_a, w=2, when_tied="rollback",
        max_rollbacks=2,
    )  # fmt: skip
    assert search.end == "max_rollbacks"
    assert [r.purpose for r in asked].count("work") == 1
    assert [r.purpose for r in asked].count("critique") == 2
    assert [r.purpose for r in asked].count("compare") == 2


def test_a_text_that_is_cut_off_is_used_and_counted():
    config = SHARED.model_copy(update={"critiques": False})

    def answer(request):
        if request.purpose == "work":
            return [Completion(tuple(map(ord, " half of i")), "length")]
        if request.purpose == "compare":
            return [Completion((65,), "length", (-0.1, -3.0))]
        return [completion(text) for text in ("x$", "y$")]

    settings = Config(name="test", model={"base": "none"}, search={"num_candidates": 2},
                      judge=config)  # fmt: skip
    task = search_steps(PROBLEM, PROMPTS, ranking_of(settings, PROMPTS), settings)
    search, _ = converse(task, answer)
    row = search_row(search)
    assert row["num_cut_texts"] == 1
    assert row["steps"][0]["work"] == " half of i"
    assert figures_of([row]).summary()["num_cut_texts"] == 1


def test_a_judged_pair_teaches_the_work_the_critiques_and_the_verdict_as_one_tree():
    [pair] = judged_pairs("eft", 1, seed=0)
    row = eft_example(pair_row(pair), PROMPTS, SHARED)
    texts = [(PROMPTS.decode(prompt), PROMPTS.decode(said)) for prompt, said in row.paths]
    assert [said for _, said in texts] == [
        pair.work, pair.critique_a, pair.critique_b, f"{pair.verdict}]]",
    ]  # fmt: skip
    assert texts[1][0].endswith(f"Next:{pair.work}\n{pair.step_a}\nCheck:")
    assert texts[3][0].endswith(
        f"Next:{pair.work}\nA: {pair.step_a}{pair.critique_a}\nB: {pair.step_b}{pair.critique_b}\n"
        "Verdict: [["
    )
    [packed] = sft_trees([row], [0], 10_000)
    assert packed.tree.paths() == [(list(a), list(b)) for a, b in row.paths]
    assert len(packed.tree) < sum(len(a) + len(b) for a, b in row.paths) / 2
    plain = eft_example(pair_row(pair), PROMPTS, JudgeConfig(mode="shared"))
    assert len(plain.paths) == 2
    # a tree over the budget of a pass is divided, and nothing is learned twice or left out
    parts = sft_trees([row], [0], max(len(a) + len(b) for a, b in row.paths))
    assert len(parts) > 1
    assert [path for part in parts for path in part.tree.paths()] == packed.tree.paths()
    # the parts are those of the judgement that explains
    assert (
        pair.judgement == f"{pair.work} A:{pair.critique_a} B:{pair.critique_b} [[{pair.verdict}]]"
    )


def test_rows_without_the_shared_texts_are_named():
    [pair] = judged_pairs("eft", 1, seed=0)
    row = pair_row(pair) | {"work": None}
    with pytest.raises(PsrError, match=r"EFT row .*: no `work`.* build_seed\.py eft"):
        eft_example(row, PROMPTS, JudgeConfig(mode="shared"))


def test_only_the_step_worked_out_may_be_thought_about_and_its_thinking_is_not_shown():
    settings = SHARED.model_copy(update={"max_thinking_tokens": 50})
    asked = []

    def answer(request):
        asked.append(request)
        if request.purpose == "work":
            return [completion("<think>hm, 3+4</think> it is 7$")]
        if request.purpose == "critique":
            return [completion(" fine$")]
        if request.purpose == "compare":
            return [Completion((65,), "length", (-0.1, -3.0))]
        return [completion(text) for text in ("x$", "y$")]

    config = Config(name="test", model={"base": "none"}, sft=None, judge=settings,
                    search={"num_candidates": 2, "max_step_tokens": 40})  # fmt: skip
    task = search_steps(PROBLEM, PROMPTS, ranking_of(config, PROMPTS), config)
    search, _ = converse(task, answer)
    row = search_row(search)
    assert row["steps"][0]["work"] == " it is 7"
    assert row["num_thinking_tokens"] == len("<think>hm, 3+4</think>$")
    lengths = {request.purpose: request.max_tokens for request in asked}
    assert lengths == {"solve": 40, "work": 110, "critique": 60, "compare": 1}
    assert all("hm, 3+4" not in PROMPTS.decode(r.prompt_ids) for r in asked)


def test_an_empty_text_is_counted_as_one_that_is_cut_off():
    def answer(request):
        if request.purpose == "work":
            return [completion("<think>it never$")]
        if request.purpose == "compare":
            return [Completion((65,), "length", (-0.1, -3.0))]
        return [completion(text) for text in ("x$", "y$")]

    config = Config(name="test", model={"base": "none"}, search={"num_candidates": 2},
                    judge={"mode": "shared"})  # fmt: skip
    task = search_steps(PROBLEM, PROMPTS, ranking_of(config, PROMPTS), config)
    search, _ = converse(task, answer)
    assert search_row(search)["num_cut_texts"] == 1


def test_eft_rows_are_looked_at_before_anything_is_evaluated(tmp_path):
    config = load_config("configs/smoke.yaml", ("judge={mode: shared, max_tokens: 64}",))
    rows = [pair_row(pair) for pair in judged_pairs("eft", 3, seed=0)]
    write_rows(tmp_path / "eft.parquet", rows, TASK_SCHEMA)
    check_eft(config, tmp_path)
    write_rows(tmp_path / "eft.parquet", [*rows, rows[0] | {"work": ""}], TASK_SCHEMA)
    with pytest.raises(PsrError, match=r"EFT row .*: no `work`"):
        check_eft(config, tmp_path)
    check_eft(load_config("configs/smoke.yaml"), tmp_path)
