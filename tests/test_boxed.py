"""Where a solution states its answer."""

import pytest

from psr_ray.answers import extract_boxed, is_equal, stated_answer


def test_the_last_complete_box_counts():
    assert extract_boxed("\\boxed{1} then \\boxed{\\frac{2}{3}}") == "\\frac{2}{3}"
    assert extract_boxed("\\boxed{1") is None
    assert extract_boxed("\\boxed{42}. Check: \\boxed{4") == "42"  # cut off
    assert extract_boxed("\\boxed{\\boxed{1}}") == "1"
    assert extract_boxed("} {\\boxed{ a{b} }") == "a{b}"
    assert extract_boxed("none") is None
    assert extract_boxed("\\boxed{x" * 20_000) is None  # in no time


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("The answer is 42.", "42"),
        ("**Final Answer:** $x=\\frac{1}{2}$", "$x=\\frac{1}{2}"),
        ("The answer is 3. No, the answer is 3.5. Done.", "3.5"),
        ("Step 1: 3+4=7\nStep 2: 7*1,000=7,000", "7,000"),
        ("The answer is\n\\[\n42\n\\]", "42"),
        ("The answer is 42, since 6*7=42.", "42"),
        ("The probability is .5", "0.5"),
        ("x = 12-5", "5"),
        ("It is -5", "-5"),
        ("I do not know", None),
    ],
)
def test_an_answer_without_a_box_is_what_is_stated_last_or_the_last_number(solution, answer):
    found = stated_answer(solution)
    assert found == answer or is_equal(answer or "", found)
