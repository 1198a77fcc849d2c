"""An engine that only takes time: for measuring what Ray Data and our own code add to it.

A search takes a time drawn from a log-normal distribution, the same for the same problem; an engine
works on ``engine.max_rows_in_flight`` of them at once and starts the next as one ends, as the real one
does. None starts before all are there: one machine starts the processes of many one after the other.
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from actors.desk import Desk
from actors.searcher import EngineWorker
from psr_ray.storage.files import Row

# A search without steps.
EMPTY: Row = {"error": None, "correct": None, "steps": []} | dict.fromkeys(
    (
        "num_rollbacks",
        "num_sampled_tokens",
        "num_judge_tokens",
        "num_work_tokens",
        "num_critique_tokens",
        "num_compare_tokens",
        "num_cut_texts",
        "num_thinking_tokens",
        "num_prompt_tokens",
        "num_cached_tokens",
    ),
    0,
)


def service_time(name: str, median: float, sigma: float) -> float:
    """Seconds of a problem's search."""
    return median * math.exp(sigma * random.Random(name).gauss(0, 1))


def perfect(names: Iterable[str], places: int, median: float, sigma: float) -> float:
    """Seconds of a scheduler that costs nothing: a free place takes the next problem at once."""
    free = [0.0] * places
    for name in names:
        heapq.heappush(free, heapq.heappop(free) + service_time(name, median, sigma))
    return max(free)


class SimulatedEngine:
    """``submit((row, seconds))`` returns a future of a search row, at once."""

    is_alive = True
    stalled_s = busy_s = 0.0

    def __init__(self, max_open: int, is_ready: Callable[[], bool]) -> None:
        self.max_open = max_open
        self.is_ready = is_ready
        self.waiting: deque[tuple[Row, float, Future[Row]]] = deque()
        self.open: list[tuple[float, int, float, Row, Future[Row]]] = []
        self.changed = threading.Condition()
        self.numbers = itertools.count()
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, task: tuple[Row, float], _name: Any = None) -> Future[Row]:
        future: Future[Row] = Future()
        with self.changed:
            self.waiting.append((*task, future))
            self.changed.notify()
        return future

    def _run(self) -> None:
        """Ends searches when their time is up and starts as many as there is room for."""
        while not self.is_ready():
            time.sleep(0.1)
        with self.changed:
            while True:
                while self.open and self.open[0][0] <= time.time():
                    end, _, start, row, future = heapq.heappop(self.open)
                    said = f"{start},{end},{os.getpid()}"
                    future.set_result(EMPTY | {"id": row["id"], "end": said})
                while self.waiting and len(self.open) < self.max_open:
                    row, seconds, future = self.waiting.popleft()
                    now = time.time()
                    heapq.heappush(self.open, (now + seconds, next(self.numbers), now, row, future))
                self.changed.wait(max(self.open[0][0] - time.time(), 0) if self.open else None)


class SimulatedWorker(EngineWorker):
    """An engine worker whose engine is simulated; ``model`` is ``MEDIAN,SIGMA``. Its shards hold search
    rows without steps; ``end`` says when the search started and ended (Unix seconds), and where."""

    def _load(self, desk: Desk) -> None:
        self.median, self.sigma = map(float, desk.work.model.split(","))
        up = desk.folder / "up"
        up.mkdir(exist_ok=True)
        (up / str(os.getpid())).touch()
        if self.engine is not None:  # it serves another stage, too
            return
        engine = desk.config.engine
        self.engine = SimulatedEngine(
            engine.max_rows_in_flight, lambda: len(list(up.iterdir())) >= engine.num_engines[0]
        )

    def _task(self, _desk: Desk, row: Row) -> Any:
        return row, service_time(row["id"], self.median, self.sigma)
