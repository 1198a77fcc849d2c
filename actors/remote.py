"""Calls into other processes: their errors without Ray's wrapping, functions as tasks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar, cast

from psr_ray.errors import PsrError, first_line

P = ParamSpec("P")
T = TypeVar("T")


def user_error(error: BaseException | None) -> PsrError | None:
    """The ``PsrError`` among the causes of an error, if there is one."""
    while error is not None:
        if isinstance(error, PsrError):
            return error
        error = getattr(error, "cause", None) or error.__cause__
    return None


def result_of(pending: Any, timeout_s: float | None = None) -> Any:
    """The result of a task or actor method; a user's error is raised without Ray's wrapping, Ray's
    ``GetTimeoutError`` after the seconds given."""
    import ray

    try:
        return ray.get(pending, timeout=timeout_s)
    except ray.exceptions.RayTaskError as error:
        found = user_error(error.cause)
        if found is None:
            raise
        raise found from error


def succeeded(pending: Any) -> bool:
    """Whether an actor's method has returned by now, and raised nothing."""
    import ray

    if ray.wait([pending], timeout=0)[0]:
        with suppress(ray.exceptions.RayError):
            ray.get(pending)
            return True
    return False


def this_node() -> Any:
    """Where to put an actor or task that belongs beside this process: this node, which lives as long.

    Not ``soft``: then Ray puts actors without resources on any node (docs/compatibility.md)."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def in_task(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function in a process of its own on this node: this one never holds what it reads.

    It must be safe to run twice: Ray runs it again where its process dies. Raises ``PsrError`` where it
    dies every time.
    """
    import ray

    task: Any = ray.remote(num_cpus=0)(function)
    try:
        return cast(
            T, result_of(task.options(scheduling_strategy=this_node()).remote(*args, **kwargs))
        )
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise PsrError(
            f"{function.__name__}: its process died each time it was tried (out of memory? "
            f"{first_line(error)}); finished work is kept, rerun the command to resume"
        ) from error
