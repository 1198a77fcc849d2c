"""What a comparison should show, written into its config before it is run, and whether it does."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from psr_ray.compare.wording import look_up, percent, with_interval
from psr_ray.config import Frozen
from psr_ray.errors import PsrError
from psr_ray.storage.files import Json

BOUNDS = ("at_least", "above", "at_most", "below")


class Expectation(Frozen):
    """One expectation: a figure of `results_dir`/`name`.json, and the bounds it should keep."""

    text: Annotated[str, Field(min_length=1)]
    """What is expected, in words."""
    figure: Annotated[str, Field(min_length=1)]
    """Path of the figure, such as `methods/process/rise_mean`, or `process_minus_outcome_ci95/0` (the
    lower end of an interval)."""
    minus: str | None = None
    """Path of a figure to take off."""
    over: str | None = None
    """Path of a figure to divide by."""
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def can_be_met_and_missed(self) -> Expectation:
        low, high = (
            [value for value in ends if value is not None]
            for ends in ((self.at_least, self.above), (self.at_most, self.below))
        )
        if not low and not high:
            raise ValueError(f"give a bound: one of {', '.join(BOUNDS)}")
        if low and high and max(low) >= min(high):
            raise ValueError("its bounds leave no room")
        if self.minus and self.over:
            raise ValueError("`minus` and `over`: give one of them")
        return self


def is_met(value: float, expectation: Json) -> bool:
    """Whether a value keeps the bounds of an expectation."""
    value = round(value, 6)  # as figures are stored: 0.50 - 0.52 is at least -0.02
    at_least, above, at_most, below = (expectation[name] for name in BOUNDS)
    return (
        (at_least is None or value >= at_least)
        and (above is None or value > above)
        and (at_most is None or value <= at_most)
        and (below is None or value < below)
    )


def is_complete(evidence: Json) -> bool:
    """Whether all planned methods have all planned seeds."""
    return all(
        len(evidence["methods"].get(name, {}).get("seeds", ())) == len(evidence["planned_seeds"])
        for name in evidence["settings"]["methods"]
    )


def judged(evidence: Json) -> list[tuple[str, bool | None, str]]:
    """The text of each expectation, whether it is met, and the figures.

    Not before all methods have all seeds (None). Raises ``PsrError`` where a figure is still missing
    then: such an expectation could never be missed.
    """
    rows: list[tuple[str, bool | None, str]] = []
    for expectation in evidence["expected"]:
        value, shown = measured(evidence, expectation)
        met = None if value is None or not is_complete(evidence) else is_met(value, expectation)
        rows.append((expectation["text"], met, shown))
    return rows


def measured(evidence: Json, expectation: Json) -> tuple[float | None, str]:
    """The value that an expectation is about, and how it comes about; None where it is not known."""
    value = figure(evidence, expectation, "figure")
    minus, over = expectation["minus"], expectation["over"]
    other = figure(evidence, expectation, "minus" if minus else "over") if minus or over else 0.0
    if value is None or other is None:
        return None, "–"
    if minus:
        difference = percent(value - other, signed=True)
        return value - other, f"{percent(value)} − {percent(other)} = {difference}"
    if over:
        if other <= 0:  # a share of nothing
            return None, f"{percent(value)} / {percent(other)}"
        return value / other, f"{percent(value)} / {percent(other)} = {value / other:.2f}"
    return value, with_interval(evidence, expectation["figure"])


def figure(evidence: Json, expectation: Json, key: str) -> float | None:
    """One of an expectation's figures."""
    value = look_up(evidence, expectation[key])
    if value is None and not is_complete(evidence):
        return None
    if not isinstance(value, (int, float)):
        raise PsrError(
            f"comparison {evidence['name']}: `expected`, {expectation['text']!r}: {key} "
            f"{expectation[key]} is no figure of its JSON; correct the path in its config"
        )
    return value
