"""Wrong solutions of the embedded problems by what goes wrong in them first."""

import pytest

from benchmarks.errors import first_error
from psr_ray.embedded.arithmetic import Plan, all_steps_right

PLAN = Plan.from_key("58-16+28-42")  # 42, 70, 28


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        (["58-16=42", "42+28=70", r"70-42=28 \boxed{28}"], None),
        (["58-16=42", "42+28=60", r"60-42=28 \boxed{28}"], (2, "carry forgotten")),
        (["58-16=52", "52+28=80"], (1, "sum wrong by ten")),
        (["58-16=41"], (1, "sum wrong otherwise")),
        (["58-16=42", "42-28=14"], (2, "another operation")),
        (["58-16=42", "43+28=71"], (2, "value not copied")),
        (["58-16=42", r"42+28=70 \boxed{70}"], (2, "too few or too many steps")),
        (["58-16=42", "42+28=70"], (3, "too few or too many steps")),
        (["58-16=42", "42+28=70", r"70-42=28 \boxed{82}"], (3, "box")),
        (["about 42"], (1, "no equation")),
    ],
)
def test_the_first_error_has_a_place_and_a_kind(steps, found):
    numbered = [f"Step {number}: {step}" for number, step in enumerate(steps, start=1)]
    assert first_error(PLAN, numbered) == found
    assert all_steps_right(PLAN.key(), numbered) is (found is None)
