"""Many runs on one Ray: the reference method's for each seed first, the others when it is done."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event

from rich.console import Console

from actors.pipeline import run_pipeline
from psr_ray.cluster.connect import connected
from psr_ray.compare.config import CompareConfig, PlannedRun, planned_runs
from psr_ray.compare.record import stored_record, write_record
from psr_ray.doctor import check_inputs
from psr_ray.errors import PsrError, last_line
from psr_ray.report.display import finished_line
from psr_ray.stages import PlannedStage


@dataclass
class LineDisplay:
    """Prints one line per finished stage, prefixed with the run's name: several runs are in progress."""

    console: Console
    name: str
    stop: Event

    def skipped(self, planned: PlannedStage) -> None:
        """Prints nothing."""

    def watch(self, _: PlannedStage) -> None:
        """Ends this run's thread when all are to stop."""
        if self.stop.is_set():
            raise PsrError("stopped")

    def finished(self, planned: PlannedStage) -> None:
        self.console.print(f"{self.name}: {finished_line(planned)}", soft_wrap=True)


def run_comparison(comparison: CompareConfig, console: Console, *, only: str | None = None) -> None:
    """Do every run whose record is not stored yet (of one method, with ``only``).

    A run that fails does not stop the others; ``PsrError`` names them all at the end.
    """
    runs = list(planned_runs(comparison))
    due = [run for run in runs if stored_record(run) is None and only in (None, run.method)]
    console.print(f"{len(runs)} runs, {len(runs) - len(due)} stored or not asked for")
    if not due:
        return
    for run in {run.method: run for run in due}.values():
        check_inputs(run.config)
    failed: list[str] = []
    stop = Event()
    with connected(due[0].config), ThreadPoolExecutor(comparison.parallel_runs) as pool:
        leaders: dict[int, Future[None]] = {}
        futures: list[tuple[PlannedRun, Future[None]]] = []
        for run in due:
            leader = leaders.get(run.seed)
            display = LineDisplay(console, run.config.name, stop)
            future = pool.submit(do_run, run, display, None if leader is None else leader.result)
            if run.method == comparison.reference:
                leaders[run.seed] = future
            futures.append((run, future))
        try:
            for run, future in futures:
                error = future.exception()
                if error is not None:
                    failed.append(f"{run.config.name}: {last_line(error)}")
                    console.print(f"[red]{failed[-1]}[/red]", soft_wrap=True, highlight=False)
        except KeyboardInterrupt:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    if failed:
        raise PsrError(
            f"{len(failed)} of {len(due)} runs failed; rerun the command to try them again: "
            + "; ".join(failed)
        )


def do_run(run: PlannedRun, display: LineDisplay, after: Callable[[], None] | None) -> None:
    """One run, after its seed's reference run; stores its record."""
    if after is not None:
        try:
            after()
        except Exception as error:
            raise PsrError("its seed's reference run failed") from error
    summary = run_pipeline(run.config, display, accept_changes=True)
    write_record(run, summary)
    accuracy = ", ".join(f"{entry['name']} {entry['accuracy']:.1%}" for entry in summary["models"])
    display.console.print(f"{display.name}: done; {accuracy}", soft_wrap=True)
