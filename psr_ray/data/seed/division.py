"""IFT: worked solutions divided into ``Step n:`` steps; nothing else in them changes (paper, App. C).

By rule: at ends of lines, and where a solution has few of them at ends of sentences; never inside a
formula or a figure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import jinja2

from psr_ray.answers import extract_boxed, is_equal
from psr_ray.method.steps import STEP_HEADER, split_steps
from psr_ray.problems import Problem

CLOSED = re.compile(
    r"\$\$.*?\$\$|\\\[.*?\\\]|\\\(.*?\\\)|(?<!\\)\$(?![\d,.]+[\s?.!)])[^$]*?(?<!\\)\$"
    r"|\\begin\{(\w+\*?)\}.*?\\end\{\1\}|\[asy\].*?\[/asy\]|```.*?```",
    re.DOTALL,
)
LINE_END = re.compile(r"\s*\n\s*")
SENTENCE_END = re.compile(
    r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!\b(?:Mr|Ms|Dr|St|vs|no)\.)(?<!\b(?:Mrs|i\.e|e\.g)\.)\s+(?=[A-Z$\\(])"
)
# Characters of a piece that is no step of its own; it goes with the next.
SHORTEST = 8


class NotDividedError(ValueError):
    """A solution that cannot become steps, with the reason."""


def pieces(text: str, end: re.Pattern[str]) -> list[str]:
    """The parts of a text between ends that lie in no formula."""
    closed = [match.span() for match in CLOSED.finditer(text)]
    parts, start = [], 0
    for match in end.finditer(text):
        if any(a < match.end() and match.start() < b for a, b in closed):
            continue
        parts.append(text[start : match.start()])
        start = match.end()
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def divide(solution: str) -> list[str]:
    """The steps of a solution by rule, without headers."""
    parts = pieces(solution, LINE_END)
    if len(parts) <= 2:
        parts = [sentence for part in parts for sentence in pieces(part, SENTENCE_END)]
    steps: list[str] = []
    for part in parts:
        if steps and len(steps[-1]) < SHORTEST:
            steps[-1] += f"\n{part}"
        else:
            steps.append(part)
    return steps


def with_headers(steps: Iterable[str]) -> str:
    """Steps as the model is to write them."""
    return "\n".join(f"Step {number}: {step}" for number, step in enumerate(steps, start=1))


def is_unaltered(solution: str, divided: str) -> bool:
    """Whether a divided solution is the solution, but for headers and blanks."""
    bare = STEP_HEADER.sub("", divided)
    return "".join(bare.split()) == "".join(solution.split())


def boxed(problem: Problem) -> str:
    """A solution that ends with its answer in a box: one that states none is given a last line.

    Raises ``NotDividedError`` without a solution or answer, or where the box holds another answer.
    """
    if not problem.solution or not problem.solution.strip():
        raise NotDividedError("no solution")
    solution, stated = problem.solution.strip(), extract_boxed(problem.solution)
    if stated is None:
        if problem.answer is None:
            raise NotDividedError("no answer")
        return f"{solution}\nThe answer is $\\boxed{{{problem.answer}}}$."
    if problem.answer is not None and not is_equal(problem.answer, stated):
        raise NotDividedError("its box holds another answer")
    return solution


def checked(problem: Problem, divided: str, max_steps: int) -> str:
    """A divided solution that is fit for training; ``NotDividedError`` otherwise."""
    steps = split_steps(divided)
    numbers = [int(found[1]) for found in STEP_HEADER.finditer(divided)]
    if numbers != list(range(1, len(steps) + 1)):
        raise NotDividedError("its steps are not numbered from 1")
    if len(steps) < 2:
        raise NotDividedError("not divisible")
    if len(steps) > max_steps:
        raise NotDividedError("too many steps")
    if not is_unaltered(boxed(problem), divided):
        raise NotDividedError("altered")
    if extract_boxed(steps[-1]) is None:
        raise NotDividedError("its last step has no boxed answer")
    return divided


def division_prompt(problem: Problem) -> str:
    """The prompt that asks a model to divide a solution (paper, App. C, Fig. 3)."""
    template = Path(__file__).parents[2] / "templates" / "divide.jinja"
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    text = template.read_text(encoding="utf-8")
    return environment.from_string(text).render(problem=problem.text, solution=boxed(problem))


def divided_by_rule(problem: Problem, max_steps: int = 20) -> str:
    """The solution of a problem in ``Step n:`` steps. Raises ``NotDividedError`` with the reason."""
    solution = boxed(problem)
    if STEP_HEADER.search(solution):
        return checked(problem, solution, max_steps)
    return checked(problem, with_headers(divide(solution)), max_steps)
