"""Before a run: psr-ray plan, doctor."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from psr_ray.cli.app import ConfigPath, Overrides, app, console, read, user_errors
from psr_ray.config import Config

# Problems that `doctor --try` searches.
TRIED = 3


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
def doctor(
    config: ConfigPath,
    overrides: Overrides = None,
    trial: Annotated[
        bool,
        typer.Option("--try", help="also search three problems: are steps and verdicts usable?"),
    ] = False,
) -> None:
    """Check versions, model, data, disk and Ray; each failure comes with its fix."""
    from psr_ray.doctor import print_checks

    settings = read(config, overrides)
    if not print_checks(settings, console):
        raise typer.Exit(1)
    if trial and not print_trial(settings):
        raise typer.Exit(1)


def print_trial(config: Config) -> bool:
    """Search the first held-out problems and print what they show; True where all is usable."""
    from actors.rows import do_rows
    from psr_ray.measures.trial import trial_findings
    from psr_ray.report.transcript import search_tree
    from psr_ray.storage.shards import read_rows, shards

    whole = config.model_copy(update={"judge": config.as_measured().judge})
    folder = do_rows(whole, ["search"], "", None, TRIED, console=console)
    rows = list(read_rows(shards(folder)))
    if not rows[0]["error"]:
        console.print(search_tree(rows[0]))
    findings = trial_findings(rows, config)
    for finding in findings:
        mark = "[yellow]![/yellow]" if finding.remedy else "[green]✓[/green]"
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        console.print(f"{mark} {escape(finding.what + remedy)}", highlight=False, soft_wrap=True)
    console.print(f"searches: {folder}", soft_wrap=True)
    return not any(finding.remedy for finding in findings)
