"""Any model on any problems: psr-ray search, evaluate."""

from __future__ import annotations

from typing import Annotated

import typer

from psr_ray.cli.app import ConfigPath, Overrides, app, console, read, user_errors
from psr_ray.errors import PsrError


@app.command()
@user_errors
def search(
    config: ConfigPath,
    model: Annotated[str, typer.Option(help="model folder; default: the config's base")] = "",
    problems_file: Annotated[
        str | None, typer.Option("--problems", help="JSONL or Parquet file of problems")
    ] = None,
    num: Annotated[int, typer.Option(min=1, help="problems to search")] = 4,
    out: Annotated[str, typer.Option(help="folder of the searches")] = "runs/search",
    show: Annotated[int, typer.Option(min=0, help="search trees to print")] = 1,
    overrides: Overrides = None,
) -> None:
    """Step search with any model on any problems; prints the trees."""
    from actors.rows import do_rows
    from psr_ray.report.transcript import search_tree
    from psr_ray.storage.shards import read_rows, shards

    folder = do_rows(read(config, overrides), ["search"], model, problems_file, num, out)
    for shown, row in enumerate(read_rows(shards(folder))):
        if shown == show:
            break
        console.print(search_tree(row))
    console.print(f"searches: {folder}", soft_wrap=True)


@app.command()
@user_errors
def evaluate(
    config: ConfigPath,
    model: Annotated[str, typer.Option(help="model folder; default: the config's base")] = "",
    problems_file: Annotated[
        str | None, typer.Option("--problems", help="JSONL or Parquet file of problems")
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
    out: Annotated[str, typer.Option(help="folder of the solutions")] = "runs/evaluate",
    overrides: Overrides = None,
) -> None:
    """Greedy accuracy of any model on a benchmark, or any problems with known answers."""
    from actors.rows import do_rows
    from psr_ray.config import MethodConfig
    from psr_ray.data.benchmarks import benchmark_file
    from psr_ray.data.rows import output_folder
    from psr_ray.measures.benchmark import benchmark_lines, write_benchmark
    from psr_ray.storage.shards import read_rows, shards

    if benchmark is not None and problems_file is not None:
        raise PsrError("--benchmark and --problems: give one of them")
    settings = read(config, overrides)
    tasks = ["solve"]
    if test_time:  # every model is measured with its own pairwise judge, whatever its method
        tasks += ["search", "sample"]
        best_of = settings.evaluation.model_copy(update={"best_of": True})
        settings = settings.model_copy(update={"method": MethodConfig(), "evaluation": best_of})
    problems_path = str(benchmark_file(benchmark)) if benchmark else problems_file
    folder = do_rows(settings, tasks, model, problems_path, num, out).parent
    solved, searched, sampled = (
        list(read_rows(shards(output_folder(folder, task))))
        for task in ("solve", "search", "sample")
    )
    name = benchmark or problems_file or "the config's held-out problems"
    asked = model or settings.model.base
    figures = write_benchmark(folder, solved, settings, asked, name, searched, sampled)
    console.print(benchmark_lines(figures))
    console.print(f"solutions: {output_folder(folder, 'solve')}", soft_wrap=True)
