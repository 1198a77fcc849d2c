"""Seed data from files of problems, as a command or a Ray job (docs/seed-data.md).

    python jobs/build_seed.py ift --problems numina.parquet --benchmark gsm8k_test.jsonl --out seed/ift
    python jobs/build_seed.py eft --config run.yaml --problems p.jsonl --benchmark b.jsonl --out seed/eft

The outputs are sources of a run's config: `data.ift: {kind: file, path: seed/ift/ift.parquet}`,
`data.eft` with eft.parquet, `data.judge` with eft_test.parquet.
"""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from psr_ray.cli import console, read, user_errors
from psr_ray.data.seed.ift import build_ift
from psr_ray.errors import PsrError
from psr_ray.storage.locations import location

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

Problems = Annotated[list[str], typer.Option(help="JSONL or Parquet file; may be repeated")]
Out = Annotated[str, typer.Option(help="folder of the results")]
Benchmark = Annotated[
    list[str] | None, typer.Option(help="file whose problems are kept out; may be repeated")
]
Contaminated = Annotated[
    bool, typer.Option("--no-decontamination", help="keep problems that benchmarks may hold")
]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="override a setting")]


class DivideBy(StrEnum):
    RULE = "rule"
    MODEL = "model"


@app.callback()
def main() -> None:
    """Data for the first fine-tuning."""


def kept_out(benchmark: list[str] | None, no_decontamination: bool) -> list[Path]:
    """The benchmark files. Raises ``PsrError`` where they were forgotten."""
    if not benchmark and not no_decontamination:
        raise PsrError(
            "--benchmark: name the files that the model will be measured on, so that their problems are "
            "kept out; or give --no-decontamination"
        )
    return [location(path) for path in benchmark or ()]


def print_rejected(rejected: dict[str, int]) -> None:
    for reason, num in sorted(rejected.items(), key=lambda item: -item[1]):
        console.print(f"  {num} {reason}", markup=False)


@app.command()
@user_errors
def ift(
    problems: Problems,
    out: Out,
    benchmark: Benchmark = None,
    no_decontamination: Contaminated = False,
    max_steps: Annotated[int, typer.Option(min=2, help="most steps of a solution")] = 20,
    divide_by: Annotated[
        DivideBy, typer.Option(help="rule, or model: seed_data.endpoint, else --model")
    ] = DivideBy.RULE,
    config: Annotated[
        str | None, typer.Option("--config", "-c", help="YAML file of a run, for --divide-by model")
    ] = None,
    model: Annotated[str, typer.Option(help="model folder; default: the config's base")] = "",
    overrides: Overrides = None,
) -> None:
    """Worked solutions divided into `Step n:` steps; nothing else in them changes."""
    folder, writer, written_by = location(out).absolute(), None, "rule"
    known = kept_out(benchmark, no_decontamination)
    if divide_by is DivideBy.MODEL:
        from actors.seed import writer_name, written

        if config is None:
            raise PsrError(
                "--divide-by model: give --config, a run's YAML file with engine and model"
            )
        settings = read(config, overrides)
        model = model or settings.model.base
        written_by = writer_name(settings, model)

        def writer(prompts):  # type: ignore[no-untyped-def]
            return written(settings, folder / "divisions", prompts, model)

    files = [location(path) for path in problems]
    facts = build_ift(files, folder, known, max_steps, writer, written_by)
    console.print(f"{facts['kept']} solutions kept, {sum(facts['rejected'].values())} left out")
    print_rejected(facts["rejected"])
    console.print(f"solutions: {folder / 'ift.parquet'}", soft_wrap=True)


@app.command()
@user_errors
def eft(
    config: Annotated[str, typer.Option("--config", "-c", help="YAML file of a run")],
    out: Out,
    problems: Annotated[
        list[str] | None, typer.Option(help="JSONL or Parquet file with answers; may be repeated")
    ] = None,
    prm800k: Annotated[
        list[str] | None, typer.Option(help="JSONL file of PRM800K; may be repeated")
    ] = None,
    benchmark: Benchmark = None,
    no_decontamination: Contaminated = False,
    model: Annotated[str, typer.Option(help="who searches; default: the config's base")] = "",
    judge: Annotated[
        str, typer.Option(help="who judges, without seed_data.endpoint; default: --model")
    ] = "",
    overrides: Overrides = None,
) -> None:
    """Pairs of sibling steps, valued by graded rollouts, judged in both orders."""
    from actors.seed import build_eft

    if not problems and not prm800k:
        raise PsrError("--problems or --prm800k: give at least one file")
    settings, folder = read(config, overrides), location(out).absolute()
    model = model or settings.model.base
    facts = build_eft(
        settings,
        model,
        judge or model,
        folder,
        [location(path) for path in problems or ()],
        [location(path) for path in prm800k or ()],
        kept_out(benchmark, no_decontamination),
    )
    console.print(
        f"{facts['trees']} trees, {facts['pairs']} pairs, {facts['kept']} kept to learn from and "
        f"{facts['test']} to test"
    )
    print_rejected(facts["rejected"])
    console.print(f"pairs: {folder / 'eft.parquet'}, {folder / 'eft_test.parquet'}", soft_wrap=True)


if __name__ == "__main__":
    app()
