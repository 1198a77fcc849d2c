"""Seed data from files of worked problems, as a command or a Ray job.

    python jobs/build_seed.py ift --problems numina.parquet --benchmark gsm8k_test.jsonl --out seed/ift

Its output is a source of a run's config: `data.ift: {kind: file, path: seed/ift/ift.parquet}`.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from psr_ray.cli import console, user_errors
from psr_ray.data.seed.ift import build_ift
from psr_ray.errors import PsrError
from psr_ray.storage.locations import location

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@app.callback()
def main() -> None:
    """Data for the first fine-tuning."""


@app.command()
@user_errors
def ift(
    problems: Annotated[list[str], typer.Option(help="JSONL or Parquet file; may be repeated")],
    out: Annotated[str, typer.Option(help="folder of the results")],
    benchmark: Annotated[
        list[str] | None, typer.Option(help="file whose problems are kept out; may be repeated")
    ] = None,
    no_decontamination: Annotated[
        bool, typer.Option("--no-decontamination", help="keep problems that benchmarks may hold")
    ] = False,
    max_steps: Annotated[int, typer.Option(min=2, help="most steps of a solution")] = 20,
) -> None:
    """Worked solutions divided into `Step n:` steps, by rule; nothing else in them changes."""
    if not benchmark and not no_decontamination:
        raise PsrError(
            "--benchmark: name the files that the model will be measured on, so that their problems are "
            "kept out; or give --no-decontamination"
        )
    facts = build_ift(
        [location(path) for path in problems],
        location(out).absolute(),
        [location(path) for path in benchmark or ()],
        max_steps,
    )
    console.print(f"{facts['kept']} solutions kept, {sum(facts['rejected'].values())} left out")
    for reason, num in sorted(facts["rejected"].items(), key=lambda item: -item[1]):
        console.print(f"  {num} {reason}")
    console.print(f"solutions: {location(out) / 'ift.parquet'}", soft_wrap=True)


if __name__ == "__main__":
    app()
