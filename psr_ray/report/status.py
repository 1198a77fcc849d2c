"""The state of a run, from its folder alone: on any machine that sees the storage."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from psr_ray.errors import PsrError
from psr_ray.report.display import duration, finished_line
from psr_ray.runs import CONFIG_FILE, JOBS, stored_run
from psr_ray.stages import planned_stages
from psr_ray.storage.files import read_json
from psr_ray.storage.folders import HOLDER
from psr_ray.storage.locations import location
from psr_ray.telemetry.progress import interval_s, read_progress

# Seconds without a new state after which the holder is reported as silent.
SILENT_S = 120.0


def run_of(name: str, runs_dir: str) -> Path:
    """A run's folder by its path, its URL, its name, or the id of its job.

    Raises ``PsrError`` where there is none of that name.
    """
    runs = location(runs_dir)
    noted = read_json(runs / JOBS / f"{name}.json") if "/" not in name else None
    places = [location(name), runs / name] + ([runs / str(noted["run"])] if noted else [])
    for folder in places:
        if (folder / CONFIG_FILE).is_file():
            return folder.absolute()
    raise PsrError(
        f"{name}: no folder of a run, no run in {runs}, and no job with a run there; give the "
        "run's folder or URL, or --runs-dir"
    )


def print_status(folder: Path, console: Console) -> None:
    """Print a row per stage, the current one with its progress, and the process that runs it."""
    run = stored_run(folder)
    progress = read_progress(folder)
    holder = read_json(folder / HOLDER)
    table = Table(title=f"run {run.config.name}", caption=f"{folder}", caption_justify="left")
    table.add_column("stage")
    table.add_column("state")
    under_way = False
    plan = planned_stages(run)
    for planned in plan:
        state = "to do"
        if planned.stage.is_complete:
            state = finished_line(planned).removeprefix(planned.title).strip()
        elif planned.stage.was_opened and (not under_way or planned.kind == "search"):
            under_way, state = True, "started"  # a search perhaps beside an evaluation
            if progress is not None and progress.stage == planned.title:
                state = f"{progress.done} of {progress.total} {progress.unit}"
                if progress.waiting is not None:
                    state += f"; {escape(progress.waiting)}"
                elif progress.left_s is not None and holder is not None:
                    state += f", about {duration(progress.left_s)} left"
        table.add_row(planned.stage.name, state)
    console.print(table)
    if all(planned.stage.is_complete for planned in plan) and holder is None:
        console.print("complete")
        return
    if holder is None:
        console.print("not running: rerun the command, or submit the job again, to resume")
        return
    job = f", job {holder['job']}" if holder.get("job") else ""
    quiet = time.time() - progress.written_at if progress is not None else 0.0
    silent = f"; nothing new for {duration(quiet)}" if quiet > SILENT_S + interval_s(folder) else ""
    console.print(
        f"process {holder.get('pid')} on {holder.get('host')} is running it{job}, since "
        f"{holder.get('since')}{silent}",
        soft_wrap=True,
    )
