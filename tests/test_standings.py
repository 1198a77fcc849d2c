"""What a part of the verdicts decides: the same best, worst and tie as the full round robin."""

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psr_ray.method.standings import SCHEDULES, Rules, Standings, leaders
from psr_ray.method.steps import Candidate
from psr_ray.method.verdicts import Comparison, Verdict, first_wins, pick, scores

VALUES = {
    "hard": st.sampled_from([0.0, 1.0, None]),
    "soft": st.floats(0, 1) | st.none(),
    # few values, so that many scores are equal, or nearly so
    "coarse": st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0, None]),
    "weak": st.floats(0.45, 0.6),
}


@st.composite
def tables(draw):
    """How often each of 2 to 8 candidates was sampled, all verdicts, and the rules."""
    num = draw(st.integers(2, 8))
    counts = sorted(draw(st.lists(st.integers(1, 4), min_size=num, max_size=num)), reverse=True)
    values = VALUES[draw(st.sampled_from(list(VALUES)))]
    verdicts = {Comparison(i, j): Verdict(draw(values)) for i, j in permutations(range(num), 2)}
    if draw(st.booleans()):  # a judge that follows a hidden order, but for its errors
        quality = draw(st.permutations(range(num)))
        for c in verdicts:
            if draw(st.integers(0, 9)):
                verdicts[c] = Verdict(float(quality[c.first] > quality[c.second]))
    rules = Rules(
        draw(st.sampled_from(["most_sampled", "first"])), draw(st.sampled_from([0.0, 1.0, 2.0]))
    )
    return counts, verdicts, rules


def candidates_of(counts):
    return [Candidate((n,), f"step {n}", count, False) for n, count in enumerate(counts)]


def asked_by(schedule, counts, verdicts, rules):
    """The standings after a schedule, and the rounds that it took."""
    standings, rounds = Standings(candidates_of(counts), {}, rules), 0
    while asked := SCHEDULES[schedule](standings):
        assert len(set(asked)) == len(asked)
        assert not set(asked) & standings.known.keys()
        for comparison in asked:
            standings.set(comparison, first_wins(verdicts[comparison]))
        rounds += 1
    return standings, rounds


def outcome(standings):
    """Tie or not, and best and worst, as a search takes them."""
    best, worst = standings.leaders()
    return (True, best, worst) if standings.has_lead(best, worst) else (False, best, None)


@given(tables())
@settings(max_examples=600)
def test_needed_ends_as_the_full_round_robin_does(table):
    counts, verdicts, rules = table
    part, _ = asked_by("needed", counts, verdicts, rules)
    full, rounds = asked_by("all", counts, verdicts, rules)
    assert rounds == 1
    assert outcome(part) == outcome(full)
    # what the search takes from the rows: scores with one half for what was not asked
    known = {c: verdicts[c] for c in part.known}
    assert pick(scores(counts, known), part.candidates, rules.tie_break) == part.leaders()
    assert scores(counts, verdicts) == pytest.approx(full.scores(), abs=1e-9)


@given(tables(), st.randoms())
@settings(max_examples=300)
def test_what_is_decided_stays_so_whatever_follows(table, draw):
    counts, verdicts, rules = table
    part, _ = asked_by("needed", counts, verdicts, rules)
    found = outcome(part)
    for comparison in part.open():
        part.set(comparison, draw.choice([0.0, 0.5, 1.0, draw.random()]))
    assert outcome(part) == found


def test_a_clear_best_and_worst_leave_the_middle_unasked():
    counts = [1] * 6
    verdicts = {Comparison(i, j): Verdict(float(i < j)) for i, j in permutations(range(6), 2)}
    part, rounds = asked_by("needed", counts, verdicts, Rules("most_sampled", 0.0))
    assert outcome(part) == (True, 0, 5)
    assert len(part.known) <= 22
    assert rounds <= 6


def test_two_candidates_need_both_orders():
    for wins in (0.0, 1.0):
        verdicts = {Comparison(0, 1): Verdict(wins), Comparison(1, 0): Verdict(1 - wins)}
        part, _ = asked_by("needed", [1, 1], verdicts, Rules("most_sampled", 0.0))
        assert len(part.known) == 2


@given(st.lists(st.integers(1, 4), min_size=2, max_size=8), st.randoms())
def test_knockout_finds_best_and_worst_of_a_judge_that_never_errs_by_the_matches_of_two_brackets(
    counts, draw
):
    counts.sort(reverse=True)
    num = len(counts)
    quality = draw.sample(range(num), num)
    verdicts = {
        Comparison(i, j): Verdict(float(quality[i] > quality[j]))
        for i, j in permutations(range(num), 2)
    }
    rules = Rules("most_sampled", 1.0)
    part, rounds = asked_by("knockout", counts, verdicts, rules)
    best, worst = leaders("knockout", part)
    assert (quality[best], quality[worst]) == (num - 1, 0)
    assert part.has_lead(best, worst)
    assert len(part.known) == 2 * (num // 2 + 2 * ((num + 1) // 2 - 1))
    assert rounds <= 4


@given(tables())
def test_knockout_ends_for_any_verdicts_with_two_different_candidates(table):
    counts, verdicts, rules = table
    part, _ = asked_by("knockout", counts, verdicts, rules)
    best, worst = leaders("knockout", part)
    assert best != worst or not part.has_lead(best, worst)


def test_a_knockout_that_is_cut_short_goes_by_what_was_compared():
    standings = Standings(candidates_of([1] * 4), {}, Rules("first", 0.0))
    for comparison in SCHEDULES["knockout"](standings)[:2]:
        standings.set(comparison, float(comparison.first == 0))
    assert leaders("knockout", standings) == standings.leaders() == (0, 1)


def lead(counts, values, min_lead):
    verdicts = {Comparison(i, j): Verdict(value) for (i, j), value in values.items()}
    full, _ = asked_by("all", counts, verdicts, Rules("most_sampled", min_lead))
    return full.has_lead(*full.leaders())


def test_two_candidates_lead_where_both_orders_name_the_same_one():
    assert lead([1, 1], {(0, 1): 0.7, (1, 0): 0.4}, 1.0)
    assert not lead([1, 1], {(0, 1): 0.7, (1, 0): 0.55}, 1.0)
    assert lead([1, 1], {(0, 1): 0.7, (1, 0): 0.55}, 0.0)  # the mean alone
    assert not lead([1, 1], {(0, 1): 0.7, (1, 0): 0.4}, 3.0)


def test_a_judge_that_follows_the_position_gives_no_lead():
    """As a 0.5B chat model judged GSM8K: A in both orders, scores apart in the second decimal."""
    draws = [0.53, 0.59, 0.55, 0.57, 0.54, 0.58, 0.56, 0.55, 0.59, 0.53, 0.57, 0.56]
    values = dict(zip(permutations(range(4), 2), draws, strict=True))
    assert lead([1] * 4, values, 0.0)
    assert not lead([1] * 4, values, 1.0)


def test_draws_of_a_judge_that_knows_the_truth_hide_no_lead():
    """Equal steps flip in full (both orders name A), the right ones win in both orders."""
    right = [True, True, True, False, False, False]
    values = {
        (i, j): 1.0 if right[i] == right[j] else float(right[i])
        for i, j in permutations(range(6), 2)
    }
    assert lead([1] * 6, values, 2.0)
