"""A run, complete or in part: psr-ray run, train, report, status, trace."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from psr_ray.cli.app import (
    ConfigPath,
    Force,
    Overrides,
    RunFolder,
    Update,
    app,
    console,
    read,
    user_errors,
)
from psr_ray.config import Config
from psr_ray.embedded import DEMO
from psr_ray.errors import PsrError
from psr_ray.storage.locations import location


def run_stages(
    config: Config, forced: str | None, update: bool, kinds: tuple[str, ...] | None = None
) -> None:
    """Do the run's stages, or those of some kinds up to the last of them; then table and report."""
    from actors.pipeline import run_pipeline
    from psr_ray.doctor import check_inputs
    from psr_ray.report.display import RunDisplay, alarm_lines, held_line, model_table
    from psr_ray.report.html import write_report
    from psr_ray.storage.folders import disk_checked

    check_inputs(config)
    with RunDisplay(config.run_dir, console) as display:
        summary = run_pipeline(
            config,
            display,
            forced=forced,
            accept_changes=update,
            wanted=lambda planned: kinds is None or planned.kind in kinds,
        )
    if summary["models"]:
        console.print(model_table(summary, console.width))
    if line := held_line(summary):
        console.print(line, soft_wrap=True)
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
    """A complete run: M0, fine-tuning, all iterations, evaluation, report. Resumes by itself."""
    run_stages(read(config, overrides), force, update)


@app.command()
@user_errors
def demo(overrides: Overrides = None) -> None:
    """A complete run of the embedded model and problems, in runs/demo: two CPU cores, ten minutes."""
    run_stages(read(str(DEMO), overrides), None, False)


@app.command()
@user_errors
def train(
    config: ConfigPath,
    overrides: Overrides = None,
    force: Force = None,
    update: Update = False,
) -> None:
    """The run without its evaluations: data, fine-tuning, searches, step-DPO."""
    kinds = ("seed", "data", "sft", "search", "preferences", "train")
    run_stages(read(config, overrides), force, update, kinds)


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
    """The state of a run, from any machine that sees its storage."""
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
