"""Before a run: psr-ray plan, doctor."""

from __future__ import annotations

from typing import Annotated

import typer

from psr_ray.cli.app import ConfigPath, Overrides, app, console, read, user_errors


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
    """Check versions, model, data, disk and Ray; each failure comes with its fix."""
    from psr_ray.doctor import print_checks

    if not print_checks(read(config, overrides), console):
        raise typer.Exit(1)
