"""A run: an actor drives each iteration, and another one resumes where it dies; then the report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from typing import Any, Protocol

from actors.remote import result_of, this_node
from psr_ray.cluster.capacity import check_apart, check_capacity, demands_of
from psr_ray.config import Config
from psr_ray.data.stage import check_sources
from psr_ray.errors import PsrError, first_line
from psr_ray.report.memory import PeakMemory
from psr_ray.report.summary import write_summary
from psr_ray.run_models import check_weights, drop_old_models, force
from psr_ray.runs import CONFIG_FILE, RunDirectory
from psr_ray.stages import PlannedStage, planned_stages
from psr_ray.storage.files import Json
from psr_ray.storage.folders import disk_checked
from psr_ray.telemetry.progress import interval_s

# Deaths in one stage, of the driver actor or of an actor it needs, after which the run is given up.
MAX_DRIVER_DEATHS = 3


class Display(Protocol):
    """Shows the user the state of the run, as its files hold it."""

    def skipped(self, planned: PlannedStage) -> None: ...

    def watch(self, planned: PlannedStage, /) -> None:
        """Called about twice a second with the first stage that is not complete."""

    def finished(self, planned: PlannedStage) -> None: ...


def run_pipeline(
    config: Config,
    display: Display,
    *,
    forced: str | None = None,
    accept_changes: bool = False,
    wanted: Callable[[PlannedStage], bool] = lambda planned: True,
) -> Json:
    """Run every stage that is not complete (of those ``wanted``); returns the run's summary.

    ``forced`` names a stage to redo, with all that come after it.
    """
    run = RunDirectory(config)
    with disk_checked(run.path):
        run.claim(accept_changes=accept_changes)
        try:
            plan = planned_stages(run)
            if forced is not None:
                force(config, plan, forced)
            for planned in plan:
                if planned.kind in ("seed", "data") and planned.stage.is_complete:
                    check_sources(config, planned.stage.name, planned.stage.manifest or {})
            due = []
            for planned in filter(wanted, plan):
                if planned.stage.is_complete:
                    planned.stage.tidy()  # where a driver was killed before it could
                    display.skipped(planned)
                else:
                    due.append(planned)
            check_weights(config, plan, due)
            drop_old_models(config, plan)
            if due:
                with PeakMemory(run.path), drivers_of(config, due) as drivers:
                    since, last = time.time(), driven_in(config, due[-1])
                    for iteration, stages in groupby(due, partial(driven_in, config)):
                        drivers.are_more = iteration < last
                        since = run_iteration(iteration, list(stages), drivers, display, since)
            return write_summary(run)
        finally:
            run.release()


def driven_in(config: Config, planned: PlannedStage) -> int:
    """The iteration whose driver runs a stage: Mk's evaluation shares its engines with Mk's search; the
    last evaluation has none to share with."""
    is_later = planned.kind == "evaluate" and planned.model != "M0"
    return min(planned.iteration + is_later, config.num_iterations)


def run_iteration(
    iteration: int,
    due: list[PlannedStage],
    drivers: Drivers,
    display: Display,
    since: float,
) -> float:
    """Have a driver run the stages of an iteration that are due; after a death another one resumes.

    ``since`` is when the stage before them ended; returns when the last of them did."""
    import ray

    from actors.processes import DEATHS

    num_deaths = 0
    poll_s = max(0.5, interval_s(due[0].stage.folder))
    while True:
        driver, num_left = drivers.take(), len(due)
        pending = driver.run.remote(iteration, since)
        try:
            while not ray.wait([pending], timeout=poll_s)[0]:
                show(due, display)
                if len(due) == 1:
                    drivers.prepare()
            ended: float = result_of(pending)
            show(due, display)
            return ended
        except DEATHS as error:  # its own, or an actor's that it needs
            show(due, display)
            since = time.time()
            num_deaths = 1 if len(due) < num_left else num_deaths + 1
            if num_deaths == MAX_DRIVER_DEATHS:
                raise PsrError(
                    f"{due[0].title}: a process it needs died {num_deaths} times (out of memory? "
                    f"{first_line(error)}); finished work is kept, rerun the command to resume"
                ) from error
        finally:
            ray.kill(driver)  # it may be out of reach only, or one of its threads at work


def show(due: list[PlannedStage], display: Display) -> None:
    """Take the stages that have become complete off the list and show them, and the one in progress."""
    while due and due[0].stage.is_complete:
        display.finished(due.pop(0))
    if due:
        display.watch(due[0])


class Drivers:
    """Starts driver actors; the next iteration's during the last stage of the one before, so that no
    engine waits for its process and imports."""

    are_more = True
    """Whether another iteration follows."""

    def __init__(self, start: Callable[[], Any]) -> None:
        self.start = start
        self.next: Any = None

    def take(self) -> Any:
        driver, self.next = self.next, None
        return driver or self.start()

    def prepare(self) -> None:
        if self.next is None and self.are_more:
            self.next = self.start()


@contextmanager
def drivers_of(config: Config, due: list[PlannedStage]) -> Iterator[Drivers]:
    """Inside, Ray is up and the cluster checked; yields what starts driver actors on this node."""
    from psr_ray.cluster.connect import connected

    with connected(config):
        import ray

        from actors.driver import IterationDriver
        from actors.pool import engine_pool
        from actors.training_group import training_group
        from psr_ray.cluster.nodes import check_nodes, node_kinds

        kinds = node_kinds()
        check_capacity(demands_of(config), kinds)
        check_apart(config, kinds)
        check_nodes(config.run_dir / CONFIG_FILE)
        actor_class: Any = IterationDriver
        here = ray.get_runtime_context()
        # Ray Train's helpers look the cluster up again, and find several where several run on a machine
        variables = DRIVER_ENVIRONMENT | python_path() | {"RAY_ADDRESS": here.gcs_address}
        env = {"env_vars": variables}
        placed = actor_class.options(
            runtime_env=env,
            # a driver's node goes only with the command's
            scheduling_strategy=this_node(),
        )
        names = {planned.stage.name for planned in due}
        with (
            engine_pool(str(config.run_dir), runtime_env=env) as pool,
            training_group(keep=config.engine.keeps_workers, runtime_env=env) as group,
        ):
            yield Drivers(lambda: placed.remote(config, names, pool, group))


def python_path() -> dict[str, str]:
    """Lets workers of a local Ray import from where this process does."""
    return {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}


# Environment of a driver actor's process.
DRIVER_ENVIRONMENT = {"RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
