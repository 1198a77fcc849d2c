"""The whole run on one screen: stages in order, a driver actor for each iteration, the report."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any, Protocol

from actors.trainer import user_error
from psr_ray.cluster.capacity import check_capacity, demands_of
from psr_ray.config import Config
from psr_ray.errors import PsrError, first_line
from psr_ray.report.memory import PeakMemory
from psr_ray.report.summary import write_summary
from psr_ray.runs import CONFIG_FILE, RunDirectory
from psr_ray.stages import Step, force, steps_of
from psr_ray.storage.files import Json
from psr_ray.storage.folders import disk_checked

# Deaths in one stage, of its driver actor or an actor it needs, that are made good from the files.
MAX_DEATHS = 2


class Display(Protocol):
    """What the pipeline tells a person."""

    def skipped(self, step: Step) -> None: ...

    def started(self, step: Step) -> None: ...

    def finished(self, step: Step, manifest: Json) -> None: ...

    def watch(self) -> None: ...


def run_pipeline(
    config: Config,
    display: Display,
    *,
    forced: str | None = None,
    accept_changes: bool = False,
    wanted: Callable[[Step], bool] = lambda step: True,
) -> Json:
    """Do every stage that is not complete (of those ``wanted``); returns the run's summary.

    ``forced`` names a stage to redo, with all that come after it.
    """
    run = RunDirectory(config)
    with disk_checked(run.path):
        run.claim(accept_changes=accept_changes)
        try:
            steps = steps_of(run)
            if forced is not None and not force(steps, forced):
                names = ", ".join(step.stage.name for step in steps)
                raise PsrError(f"--force {forced}: no such stage; the stages are {names}")
            steps = [step for step in steps if wanted(step)]
            complete = [step for step in steps if step.stage.is_complete]
            for step in complete:
                step.stage.tidy()  # where a driver was killed before it could
            if len(complete) == len(steps):
                for step in steps:
                    display.skipped(step)
            else:
                with PeakMemory(run.path):
                    do_steps(config, steps, display)
            return write_summary(run)
        finally:
            run.release()


def do_steps(config: Config, steps: list[Step], display: Display) -> None:
    """Start Ray and have each iteration's driver do its stages."""
    from psr_ray.cluster.connect import connected

    with connected(config):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from actors.driver import DRIVER_ENVIRONMENT, IterationDriver
        from psr_ray.cluster.nodes import check_nodes, node_kinds

        check_capacity(demands_of(config), node_kinds())
        check_nodes(config.run_dir / CONFIG_FILE)
        actor_class: Any = IterationDriver
        here = ray.get_runtime_context()
        # Ray Train's helpers ask for their cluster anew, and find several where several are on a machine
        variables = DRIVER_ENVIRONMENT | python_path() | {"RAY_ADDRESS": here.gcs_address}
        placed = {
            "runtime_env": {"env_vars": variables},
            # a driver's node goes only with the command's
            "scheduling_strategy": NodeAffinitySchedulingStrategy(here.get_node_id(), soft=True),
        }
        driver: Any = None
        iteration = -1
        for step in steps:
            if step.stage.is_complete:
                display.skipped(step)
                continue
            display.started(step)
            for num_deaths in itertools.count():
                if step.iteration != iteration or num_deaths:
                    iteration = step.iteration
                    driver = actor_class.options(**placed).remote(config)
                pending = driver.do.remote(step.stage.name)
                while not ray.wait([pending], timeout=0.5)[0]:
                    display.watch()
                try:
                    display.finished(step, result_of(pending))
                    break
                except (
                    ray.exceptions.RayActorError
                ) as error:  # its own death, or an actor's it needs
                    if num_deaths == MAX_DEATHS:
                        raise PsrError(
                            f"{step.title}: a process it needs died {num_deaths + 1} times (out of "
                            f"memory? {first_line(error)}); what is finished is kept, the same command "
                            "goes on"
                        ) from error
                    ray.kill(driver)  # it may be out of reach only


def result_of(pending: Any) -> Json:
    """The manifest a driver returned; a user's error without Ray's wrapping."""
    import ray

    try:
        manifest: Json = ray.get(pending)
    except ray.exceptions.RayTaskError as error:
        found = user_error(error.cause)
        if found is None:
            raise
        raise found from error
    return manifest


def python_path() -> dict[str, str]:
    """Lets workers of a local Ray import from where this process does."""
    return {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
