"""Any model on any problems: psr-ray search, evaluate."""

from __future__ import annotations

from typing import Annotated

import typer

from psr_ray.cli.app import Overrides, app, console, user_errors
from psr_ray.config import Config
from psr_ray.errors import PsrError

OptionalConfig = Annotated[
    str | None,
    typer.Option("--config", "-c", help="YAML file of a run; default: by model and machine"),
]
Model = Annotated[
    str, typer.Option(help="model folder or Hub id; default: the config's base model")
]
Out = Annotated[
    str | None, typer.Option(help="folder of the results; default: in runs, by what is asked")
]


def settings_for(config: str | None, model: str, overrides: list[str] | None) -> Config:
    """The config, or one that fits a model and this machine. Raises ``PsrError`` without either."""
    from psr_ray.api import config_for

    if config is None and not model:
        raise PsrError("--model or --config: give a model to look at, or a config that names one")
    return config_for(config, model, overrides or ())


@app.command()
@user_errors
def search(
    texts: Annotated[
        list[str] | None, typer.Argument(help="problems, each in quotes", show_default=False)
    ] = None,
    config: OptionalConfig = None,
    model: Model = "",
    problems_file: Annotated[
        str | None, typer.Option("--problems", help="file of problems (JSONL, CSV, Parquet)")
    ] = None,
    num: Annotated[int, typer.Option(min=1, help="problems to search")] = 4,
    out: Out = None,
    show: Annotated[int, typer.Option(min=0, help="search trees to print")] = 1,
    overrides: Overrides = None,
) -> None:
    """Step search with any model on any problems; prints the trees."""
    from actors.rows import do_rows
    from psr_ray.report.transcript import search_tree
    from psr_ray.storage.files import Row, read_table
    from psr_ray.storage.shards import read_rows, shards

    if texts and problems_file is not None:
        raise PsrError("--problems and problems in quotes: give one of them")
    settings, asked = settings_for(config, model, overrides), texts or ()
    if config is None and not asked and problems_file is None:
        raise PsrError('give a problem in quotes ("A train …?"), or --problems FILE')
    folder = do_rows(settings, ["search"], model, problems_file, num, out, asked, console)
    names = read_table(folder.parent / "problems.parquet", ["id"])["id"].to_pylist()
    names = names[: max(show, len(asked))]
    rows = dict[str, Row]()
    for row in read_rows(shards(folder)):
        if len(rows) == len(names):
            break
        if row["id"] in names:
            rows[row["id"]] = row
    for name in names:
        console.print(search_tree(rows[name]))
    console.print(f"searches: {folder}", soft_wrap=True)


@app.command()
@user_errors
def evaluate(
    config: OptionalConfig = None,
    model: Model = "",
    problems_file: Annotated[
        str | None, typer.Option("--problems", help="file of problems (JSONL, CSV, Parquet)")
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            help="gsm8k, math, math500, gaokao2023en, olympiadbench, aime24, amc23, or a file"
        ),
    ] = None,
    test_time: Annotated[
        bool,
        typer.Option(
            "--test-time", help="step search, pass@k, majority and best of k by the own judge, too"
        ),
    ] = False,
    num: Annotated[int, typer.Option(min=1, help="problems to solve, at most")] = 10_000,
    out: Out = None,
    overrides: Overrides = None,
) -> None:
    """Greedy accuracy of any model on a benchmark, or any problems with known answers."""
    from actors.rows import measure
    from psr_ray.measures.benchmark import benchmark_lines

    if benchmark is not None and problems_file is not None:
        raise PsrError("--benchmark and --problems: give one of them")
    settings = settings_for(config, model, overrides)
    if config is None and benchmark is None and problems_file is None:
        raise PsrError("--benchmark or --problems: name what is to be solved")
    figures, folder = measure(
        settings, model, benchmark, problems_file, num, out, test_time=test_time, console=console
    )
    console.print(benchmark_lines(figures))
    console.print(f"solutions: {folder}", soft_wrap=True)
