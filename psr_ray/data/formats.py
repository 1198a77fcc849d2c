"""One record of a problem file, as GSM8K, MATH, NuminaMath, OlympiadBench, AIME, AMC, Gaokao have it.

Keys: ``problem`` (or ``question``, ``text``), ``answer`` (or ``final_answer``, a list), ``solution``.
GSM8K's ``answer`` holds the solution and, behind ``####``, the answer; its ``<<48/2=24>>`` are marks of
a calculator.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from psr_ray.answers import extract_boxed
from psr_ray.problems import Problem

TEXT_KEYS = ("problem", "question", "text")
ANSWER_KEYS = ("answer", "final_answer")
# NuminaMath's words for a problem that has no answer to grade by.
NO_ANSWERS = ("proof", "notfound")
CALCULATOR = re.compile(r"<<[^<>\n]*>>")


def clean(value: Any) -> str:
    """A value as text that Unicode files can hold: JSON can spell halves of a character."""
    return str(value).encode("utf-8", "replace").decode()


def answer_text(value: Any) -> str | None:
    """An answer as text: several joined by commas, integers without ``.0``; None for nothing, or for a
    word that says so."""
    if isinstance(value, list):
        value = ", ".join(text for item in value if (text := answer_text(item)))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = "" if value is None else clean(value).strip()
    return None if text.casefold() in ("", *NO_ANSWERS) else text


def problem_from(record: dict[str, Any], path: Path, line: int) -> Problem:
    """A problem from a record; ``ValueError`` with the reason where it is none."""
    text = next((record[key] for key in TEXT_KEYS if record.get(key)), None)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"no problem text: one of {', '.join(TEXT_KEYS)} must hold text")
    if isinstance(record.get("context"), str) and record["context"].strip():
        text = f"{record['context'].strip()}\n\n{text.strip()}"
    values = (answer_text(record.get(key)) for key in ANSWER_KEYS)
    answer = next((value for value in values if value is not None), None)
    solution, plan = record.get("solution"), record.get("plan")
    if isinstance(solution, list):
        solution = next(iter(solution), None)
    if answer is not None and "####" in answer:
        worked, answer = answer.rsplit("####", 1)
        answer = answer.strip()
        solution = solution or CALCULATOR.sub("", worked).strip()
    elif answer is None and isinstance(solution, str):
        answer = extract_boxed(solution)
    name = next((record[key] for key in ("id", "unique_id") if record.get(key) is not None), None)
    return Problem(
        id=clean(f"{path.stem}/{line}" if name in (None, "") else name),
        text=clean(text.strip()),
        answer=None if answer is None else clean(answer),
        solution=None if solution is None else clean(solution),
        plan=None if plan is None else clean(plan),
    )
