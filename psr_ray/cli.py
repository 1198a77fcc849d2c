"""The command line: psr-ray run, train, search, evaluate, compare, results, report, status, plan, …"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from psr_ray.config import Config
from psr_ray.config.file import load_config
from psr_ray.errors import PsrError
from psr_ray.report.display import screen
from psr_ray.storage.locations import location

app = typer.Typer(
    help="Process-based self-rewarding for language models, on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
console = screen()
problems = Console(stderr=True)

ConfigPath = Annotated[str, typer.Option("--config", "-c", help="YAML file of the run")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="override a setting: --set search.top_p=0.9")
]
RunFolder = Annotated[str, typer.Argument(help="folder of a run, or its URL")]
Force = Annotated[
    str | None, typer.Option(help="redo this stage (such as search-2) and all that follow")
]
Update = Annotated[
    bool, typer.Option("--update", help="accept a changed config: redo what the changes touch")
]


# Seconds that a stopped command has to end in good order.
STOP_S = 10.0
stopped_by: list[int] = [signal.SIGINT]


def user_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Show a user's mistake as one line and exit with 2; anything unforeseen keeps its traceback."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        try:
            command(*args, **kwargs)
        except PsrError as error:
            problems.print(
                f"[red]error:[/red] {escape(str(error).strip())}", highlight=False, soft_wrap=True
            )
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            problems.print("stopped: what is finished is kept; the same command goes on from there")
            raise typer.Exit(128 + stopped_by[-1]) from error

    return wrapped


def stop(number: int, _frame: Any) -> None:
    """Ends the command: Ctrl-C, `ray job stop`, a scheduler.

    The interrupt may be lost (in a finalizer, say) or what it ends may hang (a cluster that is gone), so
    the process ends in any case; Ray then ends what it had started.
    """
    stopped_by.append(number)
    end = threading.Timer(STOP_S, os._exit, [128 + number])
    end.daemon = True
    end.start()
    raise KeyboardInterrupt


def read(config: str, overrides: list[str] | None) -> Config:
    return load_config(config, tuple(overrides or ()))


def run_stages(
    config: Config, forced: str | None, update: bool, kinds: tuple[str, ...] | None = None
) -> None:
    """Do the run's stages, or those of some kinds up to the last of them; then table and report."""
    from actors.pipeline import run_pipeline
    from psr_ray.doctor import check_inputs
    from psr_ray.report.display import RunDisplay, alarm_lines, model_table
    from psr_ray.report.html import write_report
    from psr_ray.storage.folders import disk_checked

    check_inputs(config)
    with RunDisplay(config.run_dir, console) as display:
        summary = run_pipeline(
            config,
            display,
            forced=forced,
            accept_changes=update,
            wanted=lambda step: kinds is None or step.kind in kinds,
        )
    if summary["models"]:
        console.print(model_table(summary, console.width))
    for line in alarm_lines(summary):
        console.print(f"[yellow]alarm:[/yellow] {escape(line)}", soft_wrap=True)
    if kinds is None:
        with disk_checked(config.run_dir):
            report = write_report(config.run_dir, summary)
        console.print(f"report: {report}", soft_wrap=True)


@app.command()
@user_errors
def run(
    config: ConfigPath,
    overrides: Overrides = None,
    force: Force = None,
    update: Update = False,
) -> None:
    """The whole run: M0, fine-tuning, all iterations, evaluation, report. Resumes by itself."""
    run_stages(read(config, overrides), force, update)


@app.command()
@user_errors
def train(
    config: ConfigPath,
    overrides: Overrides = None,
    force: Force = None,
    update: Update = False,
) -> None:
    """The run without its evaluations: data, fine-tuning, searches, step-DPO."""
    kinds = ("data", "sft", "search", "preferences", "train")
    run_stages(read(config, overrides), force, update, kinds)


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

    folder = do_rows(read(config, overrides), "search", model, problems_file, num, out)
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
        typer.Option(help="gsm8k, math500, gaokao2023en, olympiadbench, aime24, amc23, or a file"),
    ] = None,
    num: Annotated[int, typer.Option(min=1, help="problems to solve, at most")] = 10_000,
    out: Annotated[str, typer.Option(help="folder of the solutions")] = "runs/evaluate",
    overrides: Overrides = None,
) -> None:
    """Greedy accuracy of any model on a benchmark, or any problems with known answers."""
    from actors.rows import do_rows
    from psr_ray.data.benchmarks import benchmark_file
    from psr_ray.report.benchmark import benchmark_lines, write_benchmark
    from psr_ray.storage.shards import read_rows, shards

    if benchmark is not None and problems_file is not None:
        raise PsrError("--benchmark and --problems: give one of them")
    settings = read(config, overrides)
    problems_path = str(benchmark_file(benchmark)) if benchmark else problems_file
    folder = do_rows(settings, "solve", model, problems_path, num, out)
    rows = list(read_rows(shards(folder)))
    name = benchmark or problems_file or "the config's held-out problems"
    figures = write_benchmark(folder.parent, rows, settings, model or settings.model.base, name)
    console.print(benchmark_lines(figures))
    console.print(f"solutions: {folder}", soft_wrap=True)


@app.command()
@user_errors
def compare(
    config: Annotated[Path, typer.Option("--config", "-c", help="YAML file of the comparison")],
    method: Annotated[str | None, typer.Option(help="do the runs of this method alone")] = None,
) -> None:
    """Methods × seeds. Resumes by itself; each finished run leaves a small record."""
    from actors.comparison import run_comparison
    from psr_ray.compare.config import load_comparison

    comparison = load_comparison(config)
    if method is not None and method not in comparison.methods:
        raise PsrError(f"--method {method}: the methods are {', '.join(comparison.methods)}")
    run_comparison(comparison, console, only=method)
    results(config)


@app.command()
@user_errors
def results(
    config: Annotated[Path, typer.Option("--config", "-c", help="YAML file of the comparison")],
    check: Annotated[
        bool, typer.Option("--check", help="only say whether it is up to date")
    ] = False,
) -> None:
    """Make a comparison's JSON, page and figures again from the stored records."""
    from psr_ray.compare.config import load_comparison
    from psr_ray.compare.evidence import update_evidence
    from psr_ray.compare.results import write_results

    comparison = load_comparison(config)
    evidence, stale = update_evidence(comparison, check=check)
    changed = stale + write_results(evidence, comparison.results_page, check=check)
    names = ", ".join(map(str, changed)) or "nothing"
    if check and changed:
        raise PsrError(f"{names}: not what the records give; run `make results`")
    console.print(f"{'differs' if check else 'written'}: {names}", soft_wrap=True)


@app.command()
@user_errors
def report(run_dir: RunFolder) -> None:
    """Make a run's table and HTML report again from its files."""
    from psr_ray.report.display import model_table
    from psr_ray.report.html import write_report
    from psr_ray.report.summary import write_summary
    from psr_ray.runs import stored_run

    run = stored_run(location(run_dir))
    summary = write_summary(run)
    console.print(model_table(summary, console.width))
    console.print(f"report: {write_report(run.path, summary)}", soft_wrap=True)


@app.command()
@user_errors
def status(
    run: Annotated[
        str, typer.Argument(help="a run's folder, URL or name, or the id of its Ray job")
    ],
    runs_dir: Annotated[str, typer.Option(help="where runs live")] = "runs",
) -> None:
    """What a run is doing, from wherever its storage is seen."""
    from psr_ray.report.status import print_status, run_of

    print_status(run_of(run, runs_dir), console)


@app.command()
@user_errors
def trace(
    stage: Annotated[str, typer.Argument(help="folder of a stage, or its URL: RUN/search-1")],
) -> None:
    """The searches of a stage that were timed: each round of requests, what it took and cost."""
    from psr_ray.telemetry.traces import trace_table, traces_of

    traces = traces_of(location(stage))
    if not traces:
        raise PsrError(f"{stage}: no traces; they are in a stage with engines, as RUN/search-1")
    for spans in traces:
        console.print(trace_table(spans))


@app.command()
@user_errors
def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    gpu: Annotated[
        str | None, typer.Option(help="kind of GPU: time, and whether it all fits (h100, a100, …)")
    ] = None,
    price: Annotated[float | None, typer.Option(min=0, help="price of a GPU-hour")] = None,
) -> None:
    """The resolved config, what each stage will do and cost; starts nothing."""
    from psr_ray.planning.show import print_plan

    print_plan(read(config, overrides), console, gpu=gpu, price=price)


@app.command()
@user_errors
def doctor(config: ConfigPath, overrides: Overrides = None) -> None:
    """Check versions, model, data, disk and Ray, and say what to do."""
    from psr_ray.doctor import print_checks

    if not print_checks(read(config, overrides), console):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
