"""Ways of judging: soft verdicts after reasoning, the step worked out once, budgets, ties."""

import math

import pytest
from scripted import EOS, character_prompts, drive, prefers

from psr_ray.config import Config, JudgeConfig, PromptConfig
from psr_ray.doctor import check_judge
from psr_ray.errors import PsrError
from psr_ray.inference.search_rows import search_row
from psr_ray.inference.vllm_api import choice_place
from psr_ray.measures.searches import figures_of
from psr_ray.measures.verdict_counts import VerdictCounts
from psr_ray.method.generation import Completion, GenerationRequest
from psr_ray.method.judge import probability
from psr_ray.method.judges import judge_of
from psr_ray.method.preferences import preferences_of
from psr_ray.method.prompts import PromptBuilder
from psr_ray.method.ranking import ranking_of
from psr_ray.method.search import search_steps
from psr_ray.method.verdicts import Comparison, Verdict
from psr_ray.problems import Problem

PROMPTS = character_prompts()

PROBLEM = Problem("p", "How many?", answer="7", plan="3+4")

SOFT = judge_of(PROMPTS, JudgeConfig())

SHARED = JudgeConfig(mode="shared", critiques=True, max_tokens=60)


def said(text, logprobs=(), place=None):
    place = max(text.rfind("A"), text.rfind("B")) if place is None else place
    return Completion((*map(ord, text), EOS), "eos", logprobs, place)


def test_after_reasoning_the_verdict_is_the_probability_at_its_letter():
    chances = (math.log(0.6), math.log(0.2))
    read = SOFT.read(said("A is right, B wrong: [[A]]", chances))
    assert read.first_wins == pytest.approx(0.75)
    assert read.mass == pytest.approx(0.8)
    assert SOFT.read(said("so [[B]]", chances)).first_wins == pytest.approx(0.75)  # not the letter
    hard = judge_of(PROMPTS, JudgeConfig(verdicts="hard"))
    assert hard.read(said("so [[B]]", chances)).first_wins == 0.0
    assert hard.choice_ids == ()
    assert SOFT.choice_ids == (ord("A"), ord("B"))


@pytest.mark.parametrize(
    ("text", "logprobs", "place"),
    [
        ("no verdict by A", (-0.1, -2.0), None),
        ("[[A]] at first", (-0.1, -2.0), None),
        ("so [[A]]", (), None),  # an engine that gave no probabilities
        ("so [[A]]", (-math.inf, -math.inf), None),
        ("A: yes [[A]]", (-0.1, -2.0), 0),  # the verdict's letter is spelt in other tokens
    ],
)
def test_a_verdict_without_its_probability_is_none_and_never_a_half(text, logprobs, place):
    assert SOFT.read(said(text, logprobs, place)).first_wins is None


def test_probabilities_of_zero_on_both_sides_are_no_verdict():
    assert probability((-math.inf, -math.inf)) is None
    assert probability((-800.0, -801.0)) is None  # zero in 64 bits
    assert probability((0.0, -math.inf)) == (1.0, 1.0)
    wins, mass = probability((-20.0, -20.0))
    assert wins == 0.5
    assert mass < 1e-8
    judge = judge_of(PROMPTS, JudgeConfig(mode="verdict"))
    assert judge.read(Completion((67,), "length", (-math.inf, -math.inf))).first_wins is None
    hard = judge_of(PROMPTS, JudgeConfig(mode="verdict", verdicts="hard"))
    assert hard.read(Completion((67,), "length", (-0.1, -3.0))).first_wins == 1.0


def test_the_choice_is_read_at_the_last_of_the_letters_or_at_the_only_token():
    request = GenerationRequest((1,), 1, 0.0, 1.0, 9, choice_ids=(65, 66))
    assert choice_place((65, 70, 66, 93), request) == 2
    assert choice_place((70, 93), request) is None
    one = GenerationRequest((1,), 1, 0.0, 1.0, 1, choice_ids=(65, 66))
    assert choice_place((70,), one) == 0
    assert choice_place((65,), GenerationRequest((1,), 1, 0.0, 1.0, 9)) is None


def run(judging, judge, *, w=2, letters="xyzuvw", **search):
    config = Config(
        name="test",
        model={"base": "none", "max_length": 6000},
        search={"num_candidates": w, "max_step_tokens": 40, "max_steps": 4, **search},
        judge=judging,
    )

    def sample(prompt, n):
        return [f"{letter}{prompt.count(chr(10))}\n" for letter in letters[:n]]

    task = search_steps(PROBLEM, PROMPTS, ranking_of(config, PROMPTS), config)
    return drive(task, sample, judge, PROMPTS)


def test_a_step_without_a_lead_is_appended_without_a_pair_or_goes_back_as_set():
    def always_a(_a, _b):
        return "so [[A]]"

    search, _ = run({}, always_a)  # soft: to go back for lack of evidence would never end
    assert [step.outcome for step in search.steps] == ["appended_without_pair"] * 4
    assert all(step.is_tied for step in search.steps)
    assert (search.end, len(search.chosen())) == ("max_steps", 4)
    assert not list(preferences_of(search_row(search)))
    assert figures_of([search_row(search)]).summary()["tie_share"] == 1
    for judging, settings in (({}, {"when_tied": "rollback"}), ({"verdicts": "hard"}, {})):
        search, _ = run(judging, always_a, **settings)
        assert search.end == "max_rollbacks"
    search, _ = run({"verdicts": "hard"}, always_a, when_tied="append")
    assert search.end == "max_steps"


@pytest.mark.parametrize("tie_break", ["most_sampled", "first"])
def test_a_lead_within_the_judges_error_does_not_choose_the_step_that_is_appended(tie_break):
    def judge(a, b):  # x beats z in both orders, all other pairs go by position
        return "so [[B]]" if a[0] == "z" and b[0] == "x" else "so [[A]]"

    search, _ = run({}, judge, w=4, letters="zyxy", tie_break=tie_break)
    step = search.steps[0]
    texts = [candidate.text[0] for candidate in step.candidates]
    assert texts[step.scores.index(max(step.scores))] == "x"
    assert step.is_tied
    assert step.rejected is None
    assert texts[step.chosen] == ("y" if tie_break == "most_sampled" else texts[0])


def test_a_spent_budget_appends_what_was_sampled_most_and_asks_no_more():
    one = len("so [[A]]$")
    search, asked = run({"max_problem_tokens": 3 * one}, prefers("x1", "x2"))
    steps = search_row(search)["steps"]
    assert [step["rejected"] is None for step in steps] == [False, False, True, True]
    assert [step["spent"] for step in steps] == [False, False, True, True]
    assert not any(step["tied"] for step in steps)
    figures = figures_of([search_row(search)]).summary()
    assert (figures["num_judged_steps"], figures["num_spent_steps"]) == (2, 2)
    assert (figures["tie_share"], figures["asked_share"]) == (0, 0.5)
    assert len([r for r in asked if r.purpose == "compare"]) == 4  # looked at between rounds
    assert (search.end, search.num_rollbacks) == ("max_steps", 0)


def test_fewer_comparisons_end_in_the_same_pair():
    order = [f"{letter}{n}" for n in range(9) for letter in "wvuzyx"]
    pairs = {}
    for comparisons in ("all", "needed", "knockout"):
        search, asked = run({"comparisons": comparisons}, prefers(*order), w=6)
        found = list(preferences_of(search_row(search)))
        texts = [(pair["chosen_text"], pair["rejected_text"]) for pair in found]
        pairs[comparisons] = texts, len([r for r in asked if r.purpose == "compare"])
    assert pairs["all"][0] == pairs["needed"][0] == pairs["knockout"][0]
    assert pairs["all"][1] == 4 * 30
    assert pairs["needed"][1] < 0.8 * 120
    assert pairs["knockout"][1] == 4 * 14
    shares = figures_of([search_row(run({"comparisons": "knockout"}, prefers(*order), w=6)[0])])
    assert shares.summary()["asked_share"] == pytest.approx(14 / 30)


def test_a_mode_that_the_templates_or_the_vocabulary_cannot_serve_is_found_beforehand(tmp_path):
    config = Config(name="test", model={"base": "none"}, judge={"mode": "shared"})
    check_judge(PROMPTS, config)
    for name in ("solve", "judge", "verdict", "points"):
        (tmp_path / f"{name}.jinja").write_text("{{ problem }}{{ solution }}")
    settings = PromptConfig(templates=str(tmp_path), chat_template=False)
    own = PromptBuilder(PROMPTS.tokenizer, settings)
    with pytest.raises(PsrError, match=r"work\.jinja"):
        check_judge(own, config)
    with pytest.raises(ValueError, match="`critiques` goes with `mode: shared`"):
        JudgeConfig(critiques=True)
    with pytest.raises(ValueError, match=r"works out one step: not with `method\.unit: solution`"):
        Config(name="test", model={"base": "none"}, judge={"mode": "shared"},
               method={"unit": "solution"})  # fmt: skip


def test_pairs_without_two_letters_are_neither_flips_nor_agreements():
    counts = VerdictCounts()
    pairs = [(0.9, 0.2), (None, 0.2), (0.5, 0.5), (0.9, 0.9)]
    for first, second in pairs:
        verdicts = {Comparison(0, 1): Verdict(first), Comparison(1, 0): Verdict(second)}
        counts.add([1, 1], verdicts, tie=False, is_right=None)
    shares = counts.shares()
    assert (counts.num_pairs, shares["order_flip_share"]) == (2, 0.5)
    assert shares["order_disagreement"] == pytest.approx((0.1 + 0 + 0.8) / 3)
