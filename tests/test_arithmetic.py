import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psr_ray.answers import extract_boxed, is_equal
from psr_ray.embedded.arithmetic import (
    Plan,
    check_disjoint,
    draw_plan,
    generate_problems,
    split_of,
    stated_value,
    step_is_right,
    step_lines,
)
from psr_ray.embedded.seed import forgets_carry, ift_problems, judged_pairs, work_out
from psr_ray.errors import PsrError

SPLITS = ["ift", "eft", "train", "dev", "judge", "heldout"]


def test_the_same_seed_gives_the_same_problems_and_another_seed_others():
    first = list(generate_problems("train", 50, seed=1))
    assert first == list(generate_problems("train", 50, seed=1))
    assert first != list(generate_problems("train", 50, seed=2))


def test_splits_never_overlap_whatever_the_seed():
    groups = {s: list(generate_problems(s, 300, seed=i)) for i, s in enumerate(SPLITS)}
    check_disjoint(groups)
    assert all(split_of(Plan.from_key(p.plan)) == s for s in SPLITS for p in groups[s])


def test_an_overlap_is_named():
    problems = list(generate_problems("ift", 2, seed=0))
    with pytest.raises(PsrError, match=r"in both 'ift' and 'heldout'"):
        check_disjoint({"ift": problems, "heldout": problems[:1]})


def test_wordings_are_many():
    problems = list(generate_problems("train", 2000, seed=0))
    assert len({"".join(c for c in p.text if not c.isdigit()) for p in problems}) > 1900


@given(st.integers(0, 10**6))
def test_a_plan_survives_its_key_and_its_own_steps_are_right(seed):
    plan = draw_plan(random.Random(seed), (1, 8))
    assert Plan.from_key(plan.key()) == plan
    lines = step_lines(plan)
    assert all(step_is_right(plan, lines[:i], line) for i, line in enumerate(lines))
    assert is_equal(str(plan.values()[-1]), extract_boxed("\n".join(lines)))


def test_a_step_is_judged_from_the_value_that_was_stated_before_it():
    plan = Plan.from_key("20+5-3")
    assert step_is_right(plan, ["Step 1: 20+5=26"], "Step 2: 26-3=23 \\boxed{23}")
    assert not step_is_right(plan, ["Step 1: 20+5=26"], "Step 2: 25-3=22 \\boxed{22}")
    assert not step_is_right(plan, ["Step 1: 20+5=25"], "Step 2: 25-3=22")  # not boxed
    assert not step_is_right(plan, [], "Step 1: 20+5=25 \\boxed{25}")  # not the last
    assert not step_is_right(plan, [], "Step 2: 20+5=25")


@given(st.integers(0, 10**6))
def test_written_sums_are_true_line_by_line(seed):
    plan = draw_plan(random.Random(seed), (1, 1))
    text = work_out(plan.operations[0], plan.start)
    head, _, rest = text.partition(": ")
    *parts, last = rest.split(", ")
    for part in parts:
        left, right = part.split("=")
        if " r " in right:
            quotient, rest_of_it = map(int, right.split(" r "))
            tens, divisor = map(int, left.split("/"))
            assert divmod(tens, divisor) == (quotient, rest_of_it)
        else:
            assert eval(left.replace("/", "//")) == int(right)
    assert last == f"so {plan.values()[-1]}"
    assert head == plan.key()


def test_judged_pairs_hold_one_right_step_or_two_wrong_ones():
    pairs = list(judged_pairs("eft", 400, seed=0))
    kinds = set()
    for pair in pairs:
        plan = Plan.from_key(pair.problem.plan)
        right = [step_is_right(plan, pair.steps_so_far, s) for s in (pair.step_a, pair.step_b)]
        kinds.add(tuple(right))
        assert pair.verdict == ("B" if right[1] else "A")
        assert pair.judgement.endswith(f"[[{pair.verdict}]]")
    assert kinds == {(True, False), (False, True), (False, False)}


def test_careless_solutions_forget_carries_only_and_stay_consistent():
    clean = {p.id: p for p in ift_problems(300, seed=0)}
    careless = list(ift_problems(300, seed=0, slip_share=0.5))
    num_wrong = 0
    for problem in careless:
        plan = Plan.from_key(problem.plan)
        lines = problem.solution.splitlines()
        for i, line in enumerate(lines):
            value = stated_value(lines[i - 1]) if i else plan.start
            slipped = forgets_carry(plan.operations[i], value)
            right = step_is_right(plan, lines[:i], line)
            num_wrong += not right
            assert right or stated_value(line) == slipped
        assert problem.text == clean[problem.id].text
        assert clean[problem.id].solution.endswith(f"boxed{{{problem.answer}}}")
    assert num_wrong > 50
