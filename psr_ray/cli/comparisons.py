"""Methods × seeds: psr-ray compare, results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from psr_ray.cli.app import app, console, user_errors
from psr_ray.errors import PsrError


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
        bool, typer.Option("--check", help="only check whether it is up to date")
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
