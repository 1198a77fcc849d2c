"""Tasks under way at an engine, and the thread in which they go on.

Between its requests a task builds prompts, reads answers and grades, which may take seconds. That is
done beside the engine's steps, one task at a time (tokenizers are not made for several threads).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psr_ray.method.generation import Completion, EngineTask, GenerationRequest

if TYPE_CHECKING:
    from vllm import RequestOutput


@dataclass
class Running:
    """A task, its name, the future of its result, and the completions it waits for (None before its
    first requests)."""

    task: EngineTask[Any]
    name: Any
    future: Future[Any]
    completions: list[list[Completion]] | None = None
    num_open: int = 0


@dataclass(frozen=True)
class Call:
    """A function to be called in the engine's thread. Fails where tasks are in flight: it could take
    their outputs."""

    function: Callable[[], Any]
    future: Future[Any]

    def make(self, *, is_idle: bool) -> None:
        try:
            if not is_idle:
                raise RuntimeError("tasks are in flight at the engine")
            self.future.set_result(self.function())
        except BaseException as error:
            self.future.set_exception(error)


@dataclass
class Waiting:
    """A request at the engine: its task, the position of its completions and, for one with a limit in
    seconds, the output so far and its start."""

    running: Running
    position: int
    request: GenerationRequest
    so_far: RequestOutput | None = None
    since: float = 0.0


@dataclass(frozen=True)
class Advanced:
    """A task that went on: its next requests, or else its result or error."""

    running: Running
    requests: Sequence[GenerationRequest] | None = None
    result: Any = None
    error: Exception | None = None


class TaskThread:
    """Has tasks go on, in the order in which they are given. Used by one thread."""

    def __init__(self) -> None:
        self.num_open = 0
        self._given: queue.SimpleQueue[Running | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Advanced] = queue.SimpleQueue()
        self._current: tuple[Running, float] | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def go_on(self, running: Running) -> None:
        """Send a task its completions."""
        self.num_open += 1
        self._given.put(running)

    def next(self, wait_s: float) -> Advanced | None:
        """A task that went on, if there is one within these seconds."""
        try:
            advanced = self._done.get(timeout=max(wait_s, 0.0))
        except queue.Empty:
            return None
        self.num_open -= 1
        return advanced

    def at_work(self) -> tuple[Running, float] | None:
        """The task that goes on right now, and since when (by the monotonic clock)."""
        return self._current

    def end(self) -> None:
        """End the thread, once what it was given is done."""
        self._given.put(None)

    def _run(self) -> None:
        while (running := self._given.get()) is not None:
            self._current = running, time.monotonic()
            advanced = advance(running)
            self._current = None
            self._done.put(advanced)


def advance(running: Running) -> Advanced:
    """Run a task to its next requests, or to its end."""
    try:
        if running.completions is None:
            return Advanced(running, requests=next(running.task))
        return Advanced(running, requests=running.task.send(running.completions))
    except StopIteration as stop:
        return Advanced(running, result=stop.value)
    except Exception as error:
        return Advanced(running, error=error)
    except (
        BaseException
    ) as error:  # such as SystemExit in the user's own code: a row fails, not more
        return Advanced(running, error=RuntimeError(f"{type(error).__name__}: {error}"))
