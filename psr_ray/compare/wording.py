"""A comparison's figures by their paths, and as they are written on its page."""

from __future__ import annotations

from typing import Any

from psr_ray.storage.files import Json


def look_up(figures: Any, path: str) -> Any:
    """A figure by its path; None where it is not there."""
    for part in path.split("/"):
        if isinstance(figures, list):
            figures = figures[int(part)] if part.isdigit() and int(part) < len(figures) else None
        else:
            figures = figures.get(part) if isinstance(figures, dict) else None
    return figures


def percent(value: float | None, error: float | None = None, signed: bool = False) -> str:
    """``54.7 ± 1.6`` in points; a dash where not measured."""
    if value is None:
        return "–"
    text = f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"
    return text if error is None else f"{text} ± {100 * error:.1f}"


def interval(low_high: list[float] | None) -> str:
    """``[+1.2, +3.4]`` in points."""
    return "–" if low_high is None else f"[{100 * low_high[0]:+.1f}, {100 * low_high[1]:+.1f}]"


def decimal(value: float | None, places: int = 2, signed: bool = False) -> str:
    if value is None:
        return "–"
    return f"{value:+.{places}f}" if signed else f"{value:.{places}f}"


def with_interval(evidence: Json, path: str) -> str:
    """A figure with its interval, where it has one; of an interval's end the figure and the interval."""
    parent, _, end = path.rpartition("/")
    name = parent.removesuffix("_ci95") if end in ("0", "1") else path
    ends = look_up(evidence, f"{name.removesuffix('_mean')}_ci95")
    if ends is None:
        return percent(look_up(evidence, path))
    middle = look_up(evidence, name)
    if middle is None:
        middle = look_up(evidence, f"{name}_mean")
    return f"{percent(middle, signed=True)} {interval(ends)}"
