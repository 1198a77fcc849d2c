"""Votes, failed rows and intervals: what counts as the same answer, as wrong, and as 95 %."""

import time

import numpy as np
import pytest

from psr_ray.answers import groups, groups_of
from psr_ray.compare.outcomes import matrix, mean_interval, problem_error
from psr_ray.errors import PsrError
from psr_ray.measures import sampling
from psr_ray.measures.intervals import t_quantile
from psr_ray.measures.sampling import by_number, majority, sample_figures


def samples(*answers, right=()):
    return [{"predicted": a, "correct": a in right, "num_tokens": 10} for a in answers]


def sampled(name, *answers, right=(), answer="1/2", **more):
    return {
        "id": name, "answer": answer, "samples": samples(*answers, right=right), "best": None,
        "num_tokens": 10 * len(answers), "num_judge_tokens": 0, "error": None, **more,
    }  # fmt: skip


def searched(name, correct, answer="1/2"):
    return {
        "id": name, "answer": answer, "correct": correct, "error": None,
        "num_sampled_tokens": 20, "num_judge_tokens": 15,
    }  # fmt: skip


def failed(name, answer="1/2"):
    """A failed row as it is read back: all columns that it did not get are None."""
    columns = dict.fromkeys(sampled(name) | searched(name, True))
    return columns | {"id": name, "answer": answer, "error": "ProblemTooLong: no room"}


HALVES = ("\\frac{1}{2}", "0.5", "1/2")


def test_answers_that_say_the_same_vote_together():
    row = sampled("x", "3", *HALVES, "3", right=HALVES)
    assert majority(row["samples"])
    assert not majority(row["samples"], 2)  # a draw: 3 came first
    assert sample_figures([row], k=5)["distinct_answers"] == 2
    assert by_number([row])["majority_at"] == {"1": 0, "2": 0, "4": 1, "5": 1}
    assert not majority(samples(None, None))
    assert not majority([])


def test_the_vote_is_the_most_frequent_spelling_of_the_largest_group():
    voters = ("3", "3", "0.5", "1/2", "1/2")
    assert majority(samples(*voters, right=("1/2",)))  # graded right in the spelling of most
    assert not majority(samples(*voters, right=("0.5",)))
    assert majority(samples("0.5", "1/2", right=("0.5",)))  # the first spelling wins a draw


def test_answers_are_equal_whichever_of_them_is_taken_for_the_gold_one(monkeypatch):
    """``is_equal`` lets its second answer have what the first leaves open, and not the reverse."""
    monkeypatch.setattr(groups, "is_equal", lambda gold, answer: (gold, answer) == ("5", "5 m"))
    groups_of.cache_clear()
    assert groups_of(("5", "5 m", "6")) == groups_of(("5 m", "5", "6")) == (0, 0, 1)
    groups_of.cache_clear()  # of what the stand-in said


def test_a_row_is_grouped_once_and_the_same_spelling_never_compared(monkeypatch):
    asked = []
    monkeypatch.setattr(groups, "is_equal", lambda a, b: bool(asked.append((a, b))))
    groups_of.cache_clear()
    by_number([sampled("x", *"1212121212121212", right="1")])
    assert asked == [("1", "2"), ("2", "1")]
    groups_of.cache_clear()  # of what the stand-in said


def test_an_answer_that_takes_for_ever_does_so_once(monkeypatch):
    asked = []

    def is_equal(a, b):
        asked.append((a, b))
        time.sleep(0.02 if "9^9" in a + b else 0)
        return False

    monkeypatch.setattr(groups, "is_equal", is_equal)
    monkeypatch.setattr(groups, "SLOW_S", 0.01)
    groups_of.cache_clear()
    assert groups_of(("1", "2", "9^9", "3", " 3 ", "1")) == (0, 1, 2, 3, 3, 0)
    assert asked == [("1", "2"), ("2", "1"), ("1", "9^9")]
    groups_of.cache_clear()  # of what the stand-in said


def test_failed_samples_with_a_known_answer_are_wrong():
    good = sampled("a", "1/2", "1/2", right=HALVES, best=0)
    figures = by_number([good, failed("b"), failed("c", answer=None)])
    assert figures["num_problems"] == 2
    assert figures["pass_at"] == {"1": 0.5, "2": 0.5}
    assert figures["majority_at"] == {"1": 0.5, "2": 0.5}
    assert figures["sample_tokens"] == 20  # of the row that did not fail
    assert figures["best_of"] == {
        "num_samples": 2, "num_judged": 1, "accuracy": 0.5, "tokens": 20,
    }  # fmt: skip
    assert sample_figures([good, failed("b")], k=2)["pass_at_2"] == 0.5
    assert sample_figures([good, failed("b")], k=2)["distinct_answers"] == 1
    assert by_number([failed("b")]) == {}
    assert sample_figures([failed("b")])["pass_at_8"] is None


def test_a_failed_row_keeps_its_problems_place_at_test_time():
    solved = [{"id": n, "answer": "1/2", "correct": n == "b"} for n in "abcd"]
    good_search = [searched("a", True), searched("b", False), searched("c", True)]
    good_vote = [sampled(n, "1/2", "3", "3", "3", right=HALVES) for n in "abc"]
    whole = sampling.test_time_figures(solved, good_search, good_vote)
    assert whole["correct"] == {"greedy": "010", "search": "101", "majority": "000"}
    for answer in ("1/2", None):  # the answer is known from the greedy solutions
        figures = sampling.test_time_figures(
            solved,
            [failed("a", answer), *good_search[1:]],
            [good_vote[0], failed("b", answer), *good_vote[2:]],
        )
        assert figures["correct"] == {"greedy": "010", "search": "001", "majority": "000"}
        assert figures["num_problems"] == 3
        assert (figures["search_tokens"], figures["majority_tokens"]) == (35, 30)
    [none] = {
        sampling.test_time_figures(solved, [failed("a")], [failed("a")])["correct"][way]
        for way in ("greedy", "search", "majority")
    }
    assert none == "0"
    assert sampling.test_time_figures(solved, [], good_vote) == {}
    unknown = [searched("a", None, None)], [sampled("a", answer=None)]
    assert sampling.test_time_figures([], *unknown) == {}


def test_outcomes_of_unequal_numbers_of_problems_are_refused_in_one_line():
    names = ["process-seed-0", "process-seed-1", "process-seed-2"]
    with pytest.raises(PsrError) as refused:
        matrix(["10", "1", "11"], names, "M2, search")
    [line] = str(refused.value).splitlines()
    assert "process-seed-1: M2, search: outcomes of 1 problems where other records have 2" in line
    assert "psr-ray compare" in line
    assert matrix(["10", "11"], names[:2], "M2").tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.7062), (2, 4.3027), (4, 2.7764), (9, 2.2622), (59, 2.0010), (999, 1.9623)],
)
def test_quantiles_are_those_of_students_table(degrees, quantile):
    assert t_quantile(degrees) == pytest.approx(quantile, abs=1e-4)


DIFFERENCE = 0.05


def paired_differences(rng, num_seeds, num_problems, spread):
    """Right or wrong of two methods on the same problems, subtracted: problems differ in how hard they
    are and in what the method gains on them, seeds in what it gains on all (``spread``). What both
    methods solve is mostly the same: one draw decides for both, as few differ in the records."""
    base = rng.uniform(0.3, 0.6, size=(1, num_problems))
    gain = DIFFERENCE + rng.uniform(-0.15, 0.15, size=(1, num_problems))
    gain = gain + rng.normal(0, spread, size=(num_seeds, 1))
    draw = rng.random((num_seeds, num_problems))
    return 1.0 * (draw < base + gain) - (draw < base)


@pytest.mark.parametrize("num_problems", [60, 300])
@pytest.mark.parametrize("spread", [0.01, 0.03])
@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_of_100_intervals_about_95_hold_the_truth(num_seeds, spread, num_problems):
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(1500):
        values = paired_differences(rng, num_seeds, num_problems, spread)
        low, high = mean_interval(values)
        held += low <= DIFFERENCE <= high
    assert 0.935 <= held / 1500 <= 0.975


def test_the_interval_of_one_seed_is_over_problems_alone():
    values = np.array([[1.0, 0.0, 1.0, 0.0, 1.0]])
    low, high = mean_interval(values)
    half = 2.7764 * values.std(ddof=1) / 5**0.5
    assert (low, high) == (pytest.approx(0.6 - half, abs=1e-4), pytest.approx(0.6 + half, abs=1e-4))
    assert problem_error(np.array([[0.0, 1.0, 0.0, 1.0]])) == pytest.approx((1 / 3) ** 0.5 / 2)


def test_the_interval_has_both_sources_of_chance():
    only_seeds = np.array([[0.0] * 50, [1.0] * 50, [1.0] * 50])
    low, high = mean_interval(only_seeds)
    assert high - low == pytest.approx(2 * 4.3027 / 3, abs=1e-4)
    only_problems = np.array([[0.0, 1.0] * 25] * 3)
    low, high = mean_interval(only_problems)
    assert high - low == pytest.approx(2 * 2.0096 * problem_error(only_problems), abs=1e-4)
