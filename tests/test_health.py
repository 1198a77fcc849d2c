"""Figures that show when self-reward goes wrong, and the alarms on them."""

import pytest

from psr_ray.measures import sampling
from psr_ray.measures.health import alarms_of
from psr_ray.measures.probes import kendall_tau, probes_in
from psr_ray.measures.sampling import majority, pass_at, sample_figures
from psr_ray.measures.searches import figures_of

GOOD = {
    "accuracy": 0.6,
    "accuracy_se": 0.015,
    "first_share": 0.55,
    "order_flip_share": 0.2,
    "unparsable_share": 0.0,
    "judge_accuracy_on_policy": 0.9,
    "num_gradable_verdicts": 400,
    "longer_win_share": 0.6,
    "longer_true_share": 0.5,
    "longer_wins": {"1-4": {"pairs": 100, "share": 0.6}},
    "steps_per_solution": 4.0,
    "tokens_per_step": 15.0,
    "unboxed_share": 0.0,
    "cut_off_share": 0.0,
    "pass_at_8": 0.9,
    "training": {"chosen_logp_change": 0.2},
    "probes": {"self_reward": 0.6},
}


def alarms(**changes):
    """Alarms of a run whose last model differs from a good one."""
    models = [GOOD | {"name": "M1", "probes": {}, "training": {}}, GOOD | {"name": "M2"}]
    models.append(GOOD | {"name": "M3"} | changes)
    trainings = {entry["name"]: entry["training"] or {} for entry in models}
    return [(alarm["kind"], alarm["model"]) for alarm in alarms_of(models, {}, trainings)]


def test_a_healthy_run_raises_no_alarm():
    assert alarms() == []


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("judge collapse", {"first_share": 0.97}),
        ("judge collapse", {"first_share": 0.03}),
        ("judge collapse", {"order_flip_share": 0.8}),
        (
            "judge collapse",
            {"order_flip_share": 0.45, "num_compared_pairs": 200, "judge_accuracy_on_policy": None},
        ),
        ("judge collapse", {"tie_share": 0.95, "num_judged_steps": 60}),
        ("judge collapse", {"unparsable_share": 0.2}),
        ("judge collapse", {"judge_accuracy_on_policy": 0.52}),
        ("length bias", {"longer_win_share": 0.85}),
        ("step merging", {"steps_per_solution": 3.0, "tokens_per_step": 20.0}),
        ("likelihood displacement", {"training": {"chosen_logp_change": -2.0}}),
        ("format drift", {"unboxed_share": 0.15}),
        ("format drift", {"cut_off_share": 0.15}),
        ("accuracy loss", {"accuracy": 0.5}),
        ("accuracy loss", {"accuracy": 0.5, "probes": None}),
        ("reward without progress", {"accuracy": 0.5, "probes": {"self_reward": 0.7}}),
        ("diversity loss", {"pass_at_8": 0.7}),
        ("wrong weights", {"doubt": "its answers differ from the trainer's by 0.5 nats a token"}),
    ],
)
def test_each_bound_raises_its_alarm(kind, changes):
    assert alarms(**changes) == [(kind, "M3")]


@pytest.mark.parametrize(
    "changes",
    [
        {"judge_accuracy_on_policy": 0.5, "num_gradable_verdicts": 10},  # too few to say
        {"order_flip_share": 0.45, "num_compared_pairs": 20, "judge_accuracy_on_policy": None},
        {"order_flip_share": 0.45, "num_compared_pairs": 200},  # equal steps: the others are right
        {"order_flip_share": 0.4, "num_compared_pairs": 200, "judge_accuracy_on_policy": None},
        {"tie_share": 0.95, "num_judged_steps": 20},
        {"longer_win_share": 0.85, "longer_true_share": 0.8},  # longer steps *are* better
        {"longer_win_share": 0.95, "longer_wins": {"1-4": {"pairs": 9, "share": 0.95}}},
        {"steps_per_solution": 3.0},  # shorter solutions, not longer steps
        {"accuracy": 0.57},  # within two standard errors
        {"training": None, "probes": None, "pass_at_8": None},  # not measured
    ],
)
def test_no_alarm_without_cause(changes):
    assert alarms(**changes) == []


def test_the_search_that_is_learned_from_raises_the_judges_alarms_once_a_model():
    models = [GOOD | {"name": "M1", "probes": {}, "training": {}}]
    bad = GOOD | {"order_flip_share": 0.9}
    [alarm] = alarms_of(models, {"M1": bad}, {})
    assert (alarm["kind"], alarm["model"]) == ("judge collapse", "M1")
    assert alarm["message"].startswith("in its search, 90% of pairs change")
    assert len(alarms_of([models[0] | {"order_flip_share": 0.8}], {"M1": bad}, {})) == 1
    [alarm] = alarms_of(models, {"M1": GOOD | {"engines": {"doubt": "by 0.5 nats"}}}, {})
    assert alarm["kind"] == "wrong weights"
    assert alarms_of([], {"M1": bad}, {})  # before anything was evaluated or trained


def test_a_training_raises_its_alarm_whether_its_model_is_evaluated_or_not():
    models = [GOOD | {"name": "M1", "probes": {}, "training": {}}, GOOD | {"name": "M6"}]
    [alarm] = alarms_of(models, {}, {"M4": {"chosen_logp_change": -3.0}, "M6": {}})
    assert (alarm["kind"], alarm["model"]) == ("likelihood displacement", "M4")


def candidate(text, right, score, length):
    return {
        "text": text, "token_ids": [7] * length, "count": 1, "ended": False, "score": score,
        "is_right": right, "judgement": None, "critique": None,
    }  # fmt: skip


def search(*steps):
    return {
        "id": "s", "problem": "p", "answer": "1", "plan": None, "prompt_ids": [1, 2], "error": None,
        "correct": True, "num_rollbacks": 0, "num_prompt_tokens": 1, "num_cached_tokens": 0,
        "num_sampled_tokens": 1, "num_judge_tokens": 1, "num_thinking_tokens": 0,
        "num_work_tokens": 0, "num_critique_tokens": 0, "num_compare_tokens": 1, "num_cut_texts": 0,
        "end": "finished", "steps": list(steps),
    }  # fmt: skip


def step(outcome, chosen, candidates, first_wins=(1.0, 0.0)):
    verdicts = [
        {"first": i, "second": j, "first_wins": value, "text": "", "mass": None}
        for (i, j), value in zip([(0, 1), (1, 0)], first_wins, strict=True)
    ]
    return {
        "outcome": outcome, "chosen": chosen, "candidates": candidates, "verdicts": verdicts,
        "opening_ids": [5], "tied": outcome == "rolled_back", "kept": outcome == "appended",
        "rejected": None if chosen is None else 1 - chosen, "work": None,
    }  # fmt: skip


def test_length_figures_compare_the_longer_candidate_with_the_truth():
    pair = [candidate("long", False, 1.0, 9), candidate("short", True, 0.0, 3)]
    figures = figures_of([search(step("appended", 0, pair))]).summary()
    assert figures["longer_wins"] == {"5-19": {"pairs": 1, "share": 1.0}}
    assert (figures["longer_win_share"], figures["longer_true_share"]) == (1.0, 0.0)
    assert figures["ranking_accuracy"] == 0.0
    even = [candidate("x", False, 0.5, 3), candidate("y", True, 0.5, 3)]
    figures = figures_of([search(step("appended", 0, even))]).summary()
    assert figures["longer_win_share"] is None
    assert figures["ranking_accuracy"] == 0.5


def test_probes_stand_where_the_search_stood_also_after_a_rollback():
    pair = [candidate("a", True, 1.0, 2), candidate("b", False, 0.0, 3)]
    probes = list(
        probes_in(
            search(
                step("appended", 0, pair),
                step("rolled_back", None, pair),
                step("appended", 1, pair),
                step("appended", 0, pair),
            )
        )
    )
    assert [probe["steps_so_far"] for probe in probes] == [[], ["a"], [], ["b"]]
    assert probes[3]["prefix_ids"] == [1, 2, 5, 7, 7, 7, 5]


def test_kendall_tau():
    a = {"x": [3, 2, 1], "y": [1, 0]}
    assert kendall_tau(a, a) == 1
    assert kendall_tau(a, {"x": [1, 2, 3], "y": [0, 1]}) == -1
    assert kendall_tau(a, {"x": [3, 1, 2], "y": [1, 0]}) == 0.5
    assert kendall_tau(a, {"x": [3, 2, 2]}) == pytest.approx(2 / (3 * 2) ** 0.5)  # tau-b
    assert kendall_tau(a, {"x": [0, 0, 0]}) is None
    assert kendall_tau(a, {}) is None


def samples(*answers, right="1"):
    return [{"predicted": a, "correct": a == right, "num_tokens": 10} for a in answers]


def test_pass_at_k_and_distinct_answers():
    assert pass_at(8, 0, 8) == 0
    assert pass_at(8, 1, 8) == 1
    assert pass_at(16, 1, 8) == 0.5
    row = {"id": "x", "answer": "1", "error": None, "samples": samples(*"12223334")}
    figures = sample_figures([row])
    assert figures == {"pass_at_8": 1.0, "pass_at_8_se": None, "distinct_answers": 4.0}
    none = row | {"id": "y", "answer": "9", "samples": samples(*"12223334", right="9")}
    assert sample_figures([row, none])["pass_at_8_se"] == 0.5
    assert sample_figures([row | {"samples": samples("1")}])["pass_at_8"] is None


def test_majority_vote_gets_as_many_samples_as_the_search_pays_for():
    assert majority(samples("2", "1", "1"))
    assert not majority(samples("2", "1"))  # the first given wins a draw
    assert not majority(samples(None, None))
    solved = [{"id": "x", "correct": False}]
    searched = [search() | {"id": "x", "num_sampled_tokens": 20, "num_judge_tokens": 15}]
    sampled = [{"id": "x", "answer": "1", "error": None, "samples": samples("2", "1", "1", "2")}]
    figures = sampling.test_time_figures(solved, searched, sampled)
    assert (figures["majority_samples"], figures["majority_tokens"]) == (3, 30)
    assert (figures["greedy"], figures["search"], figures["majority"]) == (0, 1, 1)
    assert figures["correct"] == {"greedy": "0", "search": "1", "majority": "1"}
