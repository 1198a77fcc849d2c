"""What a comparison should show: judged once all seeds are in; a path that names no figure."""

import pytest
from pydantic import ValidationError
from stored_comparison import page_of, small_comparison

from psr_ray.compare.config import CompareConfig
from psr_ray.compare.evidence import update_evidence
from psr_ray.compare.expectations import Expectation, judged
from psr_ray.errors import PsrError


@pytest.fixture
def comparison(tmp_path):
    return small_comparison(tmp_path)


def expecting(comparison, *expected):
    """The comparison with expectations."""
    named = [{"text": f"e{i}"} | one for i, one in enumerate(expected)]
    return CompareConfig.model_validate(comparison.model_dump() | {"expected": named})


RISES = {name: f"methods/{name}/rise_mean" for name in ("process", "outcome", "random-pairs")}


def test_expectations_are_held_against_the_figures(comparison):
    comparison = expecting(
        comparison,
        {"figure": RISES["process"], "at_least": 0.2},
        {"figure": RISES["process"], "above": 0.2},
        {"figure": RISES["outcome"], "at_most": 0.04},
        {"figure": RISES["outcome"], "over": RISES["process"], "at_least": 0.2, "below": 0.3},
        {"figure": "methods/process/models/M2/accuracy", "minus": "methods/process/models/M1/accuracy",
         "above": 0.3},
        {"figure": "process_minus_outcome_ci95/0", "above": 0},
        {"figure": "process_minus_outcome", "below": 0.15},
        {"figure": "methods/process/rise_ci95/1", "below": 0.1},
        {"figure": RISES["outcome"], "over": RISES["random-pairs"], "at_least": 0.5},
    )  # fmt: skip
    evidence, _ = update_evidence(comparison)

    def ends(name):
        low, high = (
            evidence[f"{name}_ci95"] if name in evidence else evidence["methods"][name]["rise_ci95"]
        )
        return f"[{100 * low:+.1f}, {100 * high:+.1f}]"

    rise = {
        name: f"{shown} {ends(name)}" for name, shown in (("process", "+20.0"), ("outcome", "+5.0"))
    }
    difference = f"+15.0 {ends('process_minus_outcome')}"
    assert [(met, shown) for _, met, shown in judged(evidence)] == [
        (True, rise["process"]), (False, rise["process"]), (False, rise["outcome"]),
        (True, "5.0 / 20.0 = 0.25"), (False, "70.0 − 50.0 = +20.0"), (True, difference),
        (False, difference), (False, rise["process"]), (None, "5.0 / -5.0"),  # a share of a loss
    ]  # fmt: skip
    page = page_of(comparison)
    assert "Expected before these seeds were run" in page
    assert f"| e1 | **no** | {rise['process']} |" in page


def test_nothing_is_met_or_missed_before_all_seeds_are_done(comparison):
    comparison = expecting(comparison, {"figure": RISES["process"], "above": 0})
    comparison.record("outcome", 1).unlink()
    assert "| e0 | not yet known | +20.0 [" in page_of(comparison)
    comparison.record("process", 0).unlink()
    comparison.record("process", 1).unlink()
    evidence, _ = update_evidence(comparison)
    assert judged(evidence) == [("e0", None, "–")]
    # also without the method that others are set against
    assert "Expected before" in page_of(comparison)


@pytest.mark.parametrize(
    "path", ["methods/proces/rise_mean", "process_minus_outcome_ci95", "process_minus_outcome_ci95/2",
             "methods/process/rise_mean/x"],
)  # fmt: skip
def test_a_figure_that_never_comes_is_named(comparison, path):
    evidence, _ = update_evidence(expecting(comparison, {"figure": path, "above": 0}))
    with pytest.raises(
        PsrError, match=f"comparison small: `expected`, 'e0': figure {path} is no figure"
    ):
        judged(evidence)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({}, "give a bound"),
        ({"above": 0.1, "at_most": 0.1}, "its bounds leave no room"),
        ({"above": 0, "minus": "a", "over": "b"}, "give one of them"),
    ],
)
def test_an_expectation_that_cannot_be_met_and_missed_is_refused(bounds, message):
    with pytest.raises(ValidationError, match=message):
        Expectation(text="rises", figure="methods/process/rise_mean", **bounds)
