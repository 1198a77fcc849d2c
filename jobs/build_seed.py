"""Seed data from problems, as a command or a Ray job (docs/seed-data.md). A run makes its own by
`seed_data.ift` and `seed_data.eft`, with the same code.

    python jobs/build_seed.py ift --problems numinamath --benchmark gsm8k --out seed/ift
    python jobs/build_seed.py eft --config run.yaml --problems p.jsonl --benchmark gsm8k --out seed/eft

The outputs are sources of a run's config: `data.ift: {kind: file, path: seed/ift/ift.parquet}`,
`data.eft` with eft.parquet, `data.judge` with eft_test.parquet.
"""

import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from actors.seed import in_own_folder, make_eft, written
from psr_ray.cli import console, read, user_errors
from psr_ray.config import SourceConfig
from psr_ray.config.seed import EFTDataConfig
from psr_ray.data.benchmarks import benchmark_file, phrases_of
from psr_ray.data.seed.ift import make_ift
from psr_ray.data.sources import EVERYTHING, on_hub
from psr_ray.data.stage import content_digest
from psr_ray.errors import PsrError
from psr_ray.runs import fingerprint
from psr_ray.stages import GENERATION_SETTINGS, JUDGED, TREE_SETTINGS, settings_of, writer_name
from psr_ray.storage.files import Json
from psr_ray.storage.locations import location

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

Problems = Annotated[
    list[str], typer.Option(help="file, known name (gsm8k, …) or Hub id; may be repeated")
]
Out = Annotated[str, typer.Option(help="folder of the results")]
Benchmark = Annotated[
    list[str] | None,
    typer.Option(help="name or file whose problems are kept out; may be repeated"),
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
    return [benchmark_file(name) for name in benchmark or ()]


def sources_of(names: list[str] | None) -> tuple[SourceConfig, ...]:
    """All records of files or Hub datasets."""
    return tuple(
        SourceConfig(kind="hub" if on_hub(name) else "file", path=name, num=EVERYTHING)
        for name in names or ()
    )


def files_in(sources: tuple[SourceConfig, ...], benchmarks: list[Path]) -> Json:
    """Sources and benchmarks by their content, for a folder's key."""
    files = [content_digest(str(source.path)) for source in sources if source.kind == "file"]
    datasets = [source.path for source in sources if source.kind == "hub"]
    held = [content_digest(str(path)) for path in benchmarks]
    return {"files": files, "datasets": datasets, "benchmarks": held}


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
    folder, writer = location(out).absolute(), None
    benchmarks, sources = kept_out(benchmark, no_decontamination), sources_of(problems)
    settings = files_in(sources, benchmarks) | {"max_steps": max_steps}
    if divide_by is DivideBy.MODEL:
        if config is None:
            raise PsrError(
                "--divide-by model: give --config, a run's YAML file with engine and model"
            )
        asked = read(config, overrides)
        model = model or asked.model.base
        settings |= settings_of(asked, *GENERATION_SETTINGS, "seed_data.max_tokens")
        settings["writer"] = writer_name(asked, model)
        writer = partial(written, asked, folder / "divisions", model=model)
    known = phrases_of(benchmarks)
    facts = in_own_folder(
        "ift", folder, settings, lambda: make_ift(sources, folder, known, max_steps, writer)
    )
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
    if not problems and not prm800k:
        raise PsrError("--problems or --prm800k: give at least one file")
    settings, folder = read(config, overrides), location(out).absolute()
    found = (sources_of(problems), sources_of(prm800k))
    asked = EFTDataConfig(
        problems=found[0], prm800k=found[1], model=model or None, judge=judge or None
    )
    model = model or settings.model.base
    benchmarks = kept_out(benchmark, no_decontamination)
    key = settings_of(settings, *TREE_SETTINGS, *JUDGED) | files_in(sum(found, ()), benchmarks)
    key |= {"searcher": fingerprint(model), "writer": writer_name(settings, judge or model)}
    known = phrases_of(benchmarks)
    facts = in_own_folder("eft", folder, key, lambda: make_eft(settings, asked, folder, known))
    console.print(
        f"{facts['trees']} trees, {facts['pairs']} pairs, {facts['kept']} kept to learn from and "
        f"{facts['test']} to test"
    )
    print_rejected(facts["rejected"])
    console.print(f"pairs: {folder / 'eft.parquet'}, {folder / 'eft_test.parquet'}", soft_wrap=True)


if __name__ == "__main__":
    app()
