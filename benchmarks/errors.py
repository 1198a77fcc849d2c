"""What the embedded problems' wrong solutions go wrong by: the first wrong step's kind, model by model.

    python -m benchmarks.errors runs/demo                      (prints a table for each set of problems)

Only the embedded problems have a plan by which every step can be graded.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from psr_ray.embedded.arithmetic import EQUATION, Plan, first_wrong_step
from psr_ray.embedded.seed import forgets_carry
from psr_ray.method.steps import split_steps
from psr_ray.storage.shards import read_rows, shards

KINDS = (
    "carry forgotten", "sum wrong by ten", "sum wrong otherwise", "another operation",
    "value not copied", "too few or too many steps", "box", "no equation",
)  # fmt: skip


def first_error(plan: Plan, steps: list[str]) -> tuple[int, str] | None:
    """The place (from 1) and kind of a solution's first wrong step; None where all are right."""
    wrong = first_wrong_step(plan, steps)
    if wrong is None:
        return None
    is_missing = wrong == len(steps)
    kind = "too few or too many steps" if is_missing else kind_of(plan, steps[:wrong], steps[wrong])
    return wrong + 1, kind


def kind_of(plan: Plan, so_far: list[str], step: str) -> str:
    """Of a wrong step; those before it are right."""
    match, due = EQUATION.fullmatch(step.strip()), len(so_far)
    if due >= len(plan.operations):
        return "too few or too many steps"
    if match is None:
        return "no equation"
    value, operation = plan.values()[due], plan.operations[due]
    asked, stated = operation.equation(value).split("=")[0], int(match[5])
    if int(match[2]) != value:
        return "value not copied"
    if f"{match[2]}{match[3]}{match[4]}" != asked:
        return "another operation"
    if stated == operation.apply(value):
        return "box" if due + 1 == len(plan.operations) else "too few or too many steps"
    if stated == forgets_carry(operation, value):
        return "carry forgotten"
    off = abs(stated - (operation.apply(value) or 0))
    return "sum wrong by ten" if off == 10 else "sum wrong otherwise"


def table(run: Path, folder: str) -> Table:
    """A run's models by the kinds of their first errors, in percent of all problems."""
    shown = Table("model", "right", *KINDS, "at step 5", "value above 79", title=folder)
    for stage in sorted(run.glob("evaluate-M*")):
        found, fifth, large, num = Counter[str](), 0, 0, 0
        for row in read_rows(shards(stage / folder)):
            num += 1
            plan = Plan.from_key(row["id"].split("/", 2)[2])
            error = first_error(plan, split_steps(row["text"]))
            if error is None:
                continue
            place, kind = error
            found[kind] += 1
            fifth += place == 5
            large += max(plan.values()[: place + 1]) > 79
        shares = [found[kind] for kind in KINDS]
        right = num - sum(shares)
        cells = (
            [f"{100 * count / num:.1f}" for count in (right, *shares, fifth, large)] if num else []
        )
        shown.add_row(stage.name.removeprefix("evaluate-"), *cells)
    return shown


def main(
    run: Annotated[Path, typer.Argument(help="folder of a run on the embedded problems")],
) -> None:
    """Print where the solutions of every model go wrong."""
    for folder in ("solve", "hard-solve"):
        Console(width=200).print(table(run, folder))


if __name__ == "__main__":
    typer.run(main)
