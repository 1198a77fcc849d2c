"""Export a model and its data, and push them to the Hub: psr-ray export."""

from __future__ import annotations

from typing import Annotated

import typer

from psr_ray.cli.app import RunFolder, app, console, user_errors
from psr_ray.errors import PsrError
from psr_ray.storage.locations import is_remote, location


@app.command()
@user_errors
def export(
    run_dir: RunFolder,
    model: Annotated[str | None, typer.Option(help="M1, M2, …; default: the last one")] = None,
    out: Annotated[str, typer.Option(help="folder of the export; default: RUN/export")] = "",
    license_: Annotated[
        str | None,
        typer.Option("--license", help="license of the cards; default: the base model's"),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(help="OWNER/NAME on the Hub: the model; datasets go to NAME-ift, -eft, …"),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="make new repositories public")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would be pushed")] = False,
) -> None:
    """A model and the data it learned from as folders with cards; on the Hub with --push."""
    from psr_ray.export import hub
    from psr_ray.export.export import export_run
    from psr_ray.runs import stored_run

    if push is None and (dry_run or public):
        raise PsrError("--dry-run, --public: they go with --push OWNER/NAME")
    run = stored_run(location(run_dir))
    folder = location(out).absolute() if out else run.path / "export"
    if is_remote(folder):
        raise PsrError(f"--out {folder}: give a folder of this machine")
    name = export_run(run, model, folder, license_)
    console.print(f"{name}: {folder}", soft_wrap=True)
    if push is None:
        return
    found = hub.repositories(folder, push)
    if dry_run:
        for repository in found:
            kind = "public" if public else "private"
            console.print(f"{repository.url} ({kind} where new)", soft_wrap=True)
            for file, size in repository.files():
                console.print(f"  {file}  {size / 2**20:.2f} MiB", soft_wrap=True, highlight=False)
        console.print("nothing was pushed")
        return
    for page in hub.push(found, public=public):
        console.print(f"pushed: {page}", soft_wrap=True)
