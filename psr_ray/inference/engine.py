"""vLLM in this process, driving thousands of coroutines by continuous batching.

A thread of its own steps the engine (two engines, where M1 is a frozen judge). Tasks come
in by ``submit`` at any time and start as others end, ``engine.max_rows_in_flight`` at once; a task whose
requests are done goes on at once, in another thread, while the others' requests keep decoding: no
problem waits for another.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from psr_ray.config import EngineConfig, ModelConfig
from psr_ray.inference.guard import Guard
from psr_ray.inference.models import Models
from psr_ray.inference.running import Call, Running, TaskThread, Waiting
from psr_ray.inference.vllm_api import (
    allow_amx,
    completions_of,
    engine_arguments,
    engine_environment,
    sampling_params,
)
from psr_ray.method.generation import EngineTask, GenerationRequest, ModelRole

if TYPE_CHECKING:
    from vllm import RequestOutput

Result = TypeVar("Result")


# Seconds that steps of the engine wait for tasks to go on: most take less, and then decode together.
SOON_S = 0.02
# Seconds between two looks for new tasks while the engine has nothing to do.
LOOK_S = 0.2


class VllmEngine:
    """``submit(task)`` returns a future at once; an engine that dies fails all its futures."""

    def __init__(
        self,
        model_path: str,
        model: ModelConfig,
        settings: EngineConfig,
        seed: int,
        judge_path: str | None = None,
    ):
        """Load a model, and the judge beside it where requests with ``role: judge`` will come."""
        paths: dict[ModelRole, str] = {"policy": model_path}
        if judge_path is not None:
            paths["judge"] = judge_path
        os.environ.update(engine_environment(settings))
        allow_amx()
        self._guard = Guard()  # before vLLM's processes start: this one may be killed meanwhile
        self._max_open = settings.max_rows_in_flight
        self._max_num_seqs = settings.max_num_seqs
        self._seed = seed if settings.seeded_sampling else None
        self._incoming: queue.SimpleQueue[Running | Call | None] = queue.SimpleQueue()
        self._ready: Future[None] = Future()
        self._death: str | None = None
        self.busy_s = 0.0
        """Seconds in steps of the engine so far."""
        # when the loop last went round; None while it waits for tasks
        self._beat: float | None = None
        self._tasks = TaskThread()
        self._suspects: list[Any] = []
        arguments = {
            role: engine_arguments(path, model, settings, seed, len(paths))
            for role, path in paths.items()
        }
        self._thread = threading.Thread(target=self._run, args=(arguments,), daemon=True)
        self._thread.start()
        try:
            self._ready.result()
        except BaseException:
            self._guard.close()
            raise
        self._guard.all_there()

    def submit(self, task: EngineTask[Result], name: Any = None) -> Future[Result]:
        """Start a task; its exception, if it raises one, is the future's. ``name`` identifies it among
        the suspects."""
        running = Running(task, name, Future())
        self._incoming.put(running)
        if self._death is not None:  # its thread has ended
            self._fail_incoming()
        return running.future

    def run(self, tasks: Sequence[EngineTask[Result]]) -> list[Result]:
        """All results, in order; raises the first exception of a task."""
        return [future.result() for future in [self.submit(task) for task in tasks]]

    @property
    def is_alive(self) -> bool:
        """False once the engine has died, before any of its futures fails."""
        return self._death is None

    @property
    def stalled_s(self) -> float:
        """Seconds since the engine last made a step, or a task went on, while it has something to do."""
        beat = self._beat
        if beat is None or not self.is_alive:
            return 0.0
        at_work = self._tasks.at_work()
        return time.monotonic() - (beat if at_work is None else min(beat, at_work[1]))

    def suspects(self) -> list[Any]:
        """Names of the tasks in flight when the engine died, or now: one of them may be the cause.

        vLLM takes requests as they came, so those are the owners of the oldest ``max_num_seqs``
        sequences of each engine, and those that go on; or the one that has done so since before the
        last step.
        """
        if not self.is_alive:
            return self._suspects
        at_work, beat = self._tasks.at_work(), self._beat
        if at_work is not None and beat is not None and at_work[1] < beat:
            return [at_work[0].name]
        return self._owners()

    def _owners(self) -> list[Any]:
        going_on = [running for running in list(self._open.values()) if not running.num_open]
        names, num = {}, dict.fromkeys(self._engines, 0)
        for waiting in list(self._waiting.values()):
            role = waiting.request.role
            if num[role] < self._max_num_seqs:
                names[id(waiting.running)] = waiting.running.name
                num[role] += waiting.request.num_samples
        return [*names.values(), *(running.name for running in going_on)]

    def close(self) -> None:
        """End the engine's thread once the tasks in flight have ended; later ones fail."""
        self._incoming.put(None)
        self._thread.join()

    def _run(self, arguments: dict[ModelRole, dict[str, Any]]) -> None:
        try:
            from vllm import EngineArgs, LLMEngine
            from vllm.exceptions import VLLMClientError

            self._refusals = (ValueError, VLLMClientError)
            self._engines = {
                role: LLMEngine.from_engine_args(EngineArgs(**values))
                for role, values in arguments.items()
            }
            self.models = Models(self._engines, self._in_thread)
        except BaseException as error:
            self._ready.set_exception(error)
            return
        self._waiting: dict[str, Waiting] = {}
        self._limited: set[str] = set()
        self._num_requests = 0
        self._ready.set_result(None)
        self._open: dict[int, Running] = {}
        closing = False
        try:
            while not (closing and not self._open):
                self._beat = time.monotonic()
                while self._may_start(closing):
                    self._beat = time.monotonic() if self._open else None
                    new = self._incoming.get()
                    if isinstance(new, Call):
                        new.make(is_idle=not self._open)
                        continue
                    self._beat = time.monotonic()
                    if new is None:
                        closing = True
                        break
                    self._open[id(new)] = new
                    self._tasks.go_on(new)
                self._take_advanced()
                for engine in self._engines.values():
                    if engine.has_unfinished_requests():
                        started = time.perf_counter()
                        outputs = engine.step()
                        self.busy_s += time.perf_counter() - started
                        for output in outputs:
                            self._take(output)
                        self._cut_off()
        except BaseException as error:
            self._suspects = self._owners()
            self._death = f"the vLLM engine died: {type(error).__name__}: {error}"
            for running in self._open.values():
                running.future.set_exception(RuntimeError(self._death))
            self._fail_incoming()
            raise
        else:
            self._death = "the engine is closed"
            self._fail_incoming()
        finally:
            self._tasks.end()

    def _in_thread(self, function: Callable[[], Any]) -> Any:
        """What a function returns in the engine's thread; waits for it, so from another thread."""
        call = Call(function, Future())
        self._incoming.put(call)
        if self._death is not None:
            self._fail_incoming()
        return call.future.result()

    def _may_start(self, closing: bool) -> bool:
        """Whether to accept a task now: always when there is nothing else to do."""
        if closing or len(self._open) >= self._max_open:
            return False
        return not self._open or not self._incoming.empty()

    def _fail_incoming(self) -> None:
        """Fail the tasks and calls that came too late for a dead engine."""
        with contextlib.suppress(queue.Empty):
            while True:
                new = self._incoming.get_nowait()
                if new is not None:
                    new.future.set_exception(RuntimeError(self._death))

    def _take_advanced(self) -> None:
        """Queue the next requests of tasks that went on, or deliver their results; wait for others a
        moment, and longer where the engine has nothing to do."""
        until = time.monotonic() + SOON_S
        while self._tasks.num_open:
            advanced = self._tasks.next(until - time.monotonic() if self._waiting else LOOK_S)
            if advanced is None:
                return
            if advanced.error is not None:
                self._close_task(advanced.running).set_exception(advanced.error)
            elif advanced.requests is None:
                self._close_task(advanced.running).set_result(advanced.result)
            else:
                self._queue(advanced.running, advanced.requests)

    def _queue(self, running: Running, requests: Sequence[GenerationRequest]) -> None:
        running.completions = [[] for _ in requests]
        running.num_open = len(requests)
        for position, request in enumerate(requests):
            self._num_requests += 1
            name = str(self._num_requests)
            try:
                self._engines[request.role].add_request(
                    name,
                    {"prompt_token_ids": list(request.prompt_ids)},
                    sampling_params(request, self._seed),
                )
            except self._refusals as error:  # of the request (too long, for example)
                self._drop_requests_of(running)
                self._close_task(running).set_exception(error)
                return
            self._waiting[name] = Waiting(running, position, request)

    def _drop_requests_of(self, running: Running) -> None:
        for name, waiting in list(self._waiting.items()):
            if waiting.running is running:
                del self._waiting[name]
                self._engines[waiting.request.role].abort_request([name])

    def _close_task(self, running: Running) -> Future[Any]:
        del self._open[id(running)]
        return running.future

    def _take(self, output: RequestOutput) -> None:
        """Take the output of a request: complete, or partial where it has a limit in seconds."""
        if output.finished:
            self._finish(output)
        elif (waiting := self._waiting.get(output.request_id)) is not None:
            if waiting.so_far is None:
                waiting.since = time.monotonic()
                self._limited.add(output.request_id)
            waiting.so_far = output

    def _cut_off(self) -> None:
        """End the requests whose seconds are over; they keep what they have."""
        for name in list(self._limited):
            waiting = self._waiting.get(name)
            if waiting is None:  # it has finished by itself
                self._limited.remove(name)
                continue
            assert waiting.so_far is not None
            assert waiting.request.max_seconds is not None
            if time.monotonic() - waiting.since > waiting.request.max_seconds:
                self._engines[waiting.request.role].abort_request([name])
                self._finish(waiting.so_far)

    def _finish(self, output: RequestOutput) -> None:
        waiting = self._waiting.pop(output.request_id, None)
        if waiting is None:
            return
        running = waiting.running
        assert running.completions is not None
        running.completions[waiting.position] = completions_of(output, waiting.request)
        running.num_open -= 1
        if running.num_open == 0:
            self._tasks.go_on(running)
