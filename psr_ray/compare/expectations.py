"""What a comparison should show, written into its config before it is run, and whether it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator

from psr_ray.config import Frozen
from psr_ray.storage.files import Json


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

    @model_validator(mode="after")
    def can_be_missed(self) -> Expectation:
        if self.at_least is self.above is self.at_most is None:
            raise ValueError("give a bound: `at_least`, `above` or `at_most`")
        if self.minus and self.over:
            raise ValueError("`minus` and `over`: give one of them")
        return self


def look_up(figures: Any, path: str) -> Any:
    """A figure by its path; None where it is not there (yet)."""
    for part in path.split("/"):
        if isinstance(figures, list):
            figures = figures[int(part)]
        else:
            figures = (figures or {}).get(part)
    return figures


def is_met(value: float, expectation: Json) -> bool:
    """Whether a value keeps the bounds of an expectation."""
    at_least, above, at_most = (expectation[name] for name in ("at_least", "above", "at_most"))
    return (
        (at_least is None or value >= at_least)
        and (above is None or value > above)
        and (at_most is None or value <= at_most)
    )


def points(value: float) -> str:
    """A share in percent, or a difference of shares in points."""
    return f"{100 * value:.1f}"


def judged(evidence: Json) -> list[tuple[str, bool | None, str]]:
    """The text of each expectation, whether it is met (None: nothing measured yet), and the figures."""
    rows: list[tuple[str, bool | None, str]] = []
    for expectation in evidence["expected"]:
        found = measured(evidence, expectation)
        value, shown = found or (None, "–")
        met = None if value is None else is_met(value, expectation)
        rows.append((expectation["text"], met, shown))
    return rows


def measured(evidence: Json, expectation: Json) -> tuple[float, str] | None:
    """The value that an expectation is about, and how it comes about; None where nothing is known yet."""
    value = look_up(evidence, expectation["figure"])
    minus, over = expectation["minus"], expectation["over"]
    other = look_up(evidence, minus or over) if minus or over else 0.0
    if value is None or other is None:
        return None
    if minus:
        return value - other, f"{points(value)} − {points(other)} = {100 * (value - other):+.1f}"
    if over:
        return value / other, f"{points(value)} / {points(other)} = {value / other:.2f}"
    return value, around(evidence, expectation["figure"]) or points(value)


def around(evidence: Json, path: str) -> str | None:
    """The interval that a path names an end of, with its middle where that is stored beside it."""
    parent, _, end = path.rpartition("/")
    if not parent.endswith("_ci95") or end not in ("0", "1"):
        return None
    low, high = look_up(evidence, parent)
    name = parent.removesuffix("_ci95")
    middle = look_up(evidence, name)
    if middle is None:
        middle = look_up(evidence, f"{name}_mean")
    shown = f"[{100 * low:+.1f}, {100 * high:+.1f}]"
    return shown if middle is None else f"{100 * middle:+.1f} {shown}"


def is_complete(evidence: Json, methods: Sequence[str]) -> bool:
    """Whether all planned methods have all planned seeds."""
    return all(
        len(evidence["methods"].get(name, {}).get("seeds", ())) == len(evidence["planned_seeds"])
        for name in methods
    )
