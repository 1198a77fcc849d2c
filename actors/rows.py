"""Rows of one kind through engines, outside a run: `psr-ray search`, `evaluate`, `build_seed.py`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from actors.placement import remove_room
from actors.remote import result_of
from actors.searcher import EngineWorker
from actors.stream import run_rows
from psr_ray.cluster.capacity import check_capacity, engine_demand
from psr_ray.config import Config, SourceConfig
from psr_ray.data.benchmarks import benchmark_file
from psr_ray.data.files import Failures
from psr_ray.data.rows import TASK_SCHEMA, output_folder, problem_row
from psr_ray.data.sources import problem_rows
from psr_ray.data.stage import held_out_rows
from psr_ray.doctor import check_model, check_plugins
from psr_ray.errors import PsrError
from psr_ray.measures.benchmark import write_benchmark
from psr_ray.problems import Problem
from psr_ray.report.display import RunDisplay
from psr_ray.runs import Stage, content_key, fingerprint
from psr_ray.stages import GENERATION_SETTINGS, settings_of
from psr_ray.storage.files import Json, Row
from psr_ray.storage.folders import FolderLock, disk_checked
from psr_ray.storage.locations import location
from psr_ray.storage.shards import read_rows, shards, write_rows
from psr_ray.telemetry.progress import ProgressWriter


def do_rows(
    config: Config,
    tasks: Sequence[str],
    model: str,
    problems: str | None,
    num: int,
    out: str | Path | None = None,
    texts: Sequence[str] = (),
    console: Console | None = None,
) -> Path:
    """Do problems with any model, once for each of some tasks (``search``, ``solve``, ``sample``).

    The problems are ``texts``, else those of a file, else of the config's held-out source. The folder is
    ``out``, else one in `runs` by what is asked. Rerunning resumes. A ``console`` shows the progress.

    Returns the folder of the first task's shards, beside which the others' lie.
    """

    config = config.in_iteration(1)
    model = model or config.model.base
    check_plugins(config)
    check_model(model, config)
    failures = Failures()
    if texts:
        named = enumerate(texts, start=1)
        rows = [problem_row(tasks[0], Problem(f"problem-{number}", text)) for number, text in named]
    elif problems is not None:
        source = SourceConfig(kind="file", path=problems, num=num)
        rows = list(problem_rows(source, "heldout", tasks[0], config.seed, failures))
    else:  # as the data stage draws them
        rows = held_out_rows(config.data.heldout, config.seed, failures)[:num]
    if "solve" in tasks and all(row["answer"] is None for row in rows):
        raise PsrError(
            f"{problems or config.data.heldout.path}: no problem has an answer to grade by; give a file "
            "with `answer`"
        )
    settings = settings_of(config, *GENERATION_SETTINGS, "search", "method", "evaluation")
    settings |= {"model": fingerprint(model), "problems": rows}
    if len(tasks) > 1:
        settings["tasks"] = list(tasks)
    key = content_key(tasks[0], settings, [])
    folder = location(out or f"{config.runs_dir}/{tasks[0]}-{key[:8]}").absolute()
    stage = Stage(tasks[0], folder, key)
    if not stage.is_complete:
        stage.check_free("another model, config or set of problems")
    for failure in failures.items:
        logging.getLogger("psr_ray").warning(
            "%s line %d left out: %s", failure["file"], failure["line"], failure["reason"]
        )
    rows = [row | {"task": task} for task in tasks for row in rows]
    with RunDisplay(folder, console) if console is not None else nullcontext() as display:
        watch = None if display is None else display.show
        return engine_stage(config, stage, rows, tasks[0], model, watch=watch)


def measure(
    config: Config,
    model: str,
    benchmark: str | None,
    problems: str | None,
    num: int,
    out: str | Path | None = None,
    *,
    test_time: bool = False,
    console: Console | None = None,
) -> tuple[Json, Path]:
    """Greedy accuracy on a benchmark (or a file, or the config's held-out problems), with ``test_time``
    also step search, pass@k, majority and best of k; the figures, and the folder of the solutions."""
    tasks = ["solve"]
    if test_time:  # every model is measured with its own pairwise judge, whatever its method
        tasks += ["search", "sample"]
        best_of = config.evaluation.model_copy(update={"best_of": True})
        config = config.as_measured().model_copy(update={"evaluation": best_of})
    path = str(benchmark_file(benchmark)) if benchmark else problems
    solutions = do_rows(config, tasks, model, path, num, out, console=console)
    solved, searched, sampled = (
        list(read_rows(shards(output_folder(solutions.parent, task))))
        for task in ("solve", "search", "sample")
    )
    name = benchmark or problems or "the config's held-out problems"
    asked = model or config.model.base
    figures = write_benchmark(solutions.parent, solved, config, asked, name, searched, sampled)
    return figures, solutions


def engine_stage(
    config: Config,
    stage: Stage,
    rows: Sequence[Row],
    task: str,
    model: str,
    worker: type[EngineWorker] = EngineWorker,
    progress: ProgressWriter | None = None,
    watch: Callable[[str], None] | None = None,
) -> Path:
    """Do task rows in a folder of their own; returns the folder of the shards of one kind.

    ``worker`` takes the place of an engine's; ``progress`` is that of a run's stage, else the folder has
    one, whose title ``watch`` is called with from time to time. Rerunning resumes; completed work is not
    repeated.
    """
    from psr_ray.cluster.connect import connected

    folder = stage.folder
    done = output_folder(folder, task)
    if stage.is_complete:
        return done
    started = time.monotonic()
    inputs = [folder / "problems.parquet"]
    # a run has its own lock
    lock = FolderLock(folder) if progress is None else nullcontext()
    with disk_checked(folder), lock:
        stage.open()
        write_rows(inputs[0], rows, TASK_SCHEMA)
        with connected(config):
            import ray

            from psr_ray.cluster.nodes import check_nodes, node_kinds

            least = config.engine.num_engines[0]
            check_capacity([engine_demand(config.engine, least)], node_kinds())
            check_nodes(inputs[0])
            do = ray.remote(num_cpus=0)(run_rows)
            shown = progress or ProgressWriter(folder, task, "rows")
            pending = do.remote(inputs, folder, model, config, shown, worker=worker)
            try:
                while watch is not None and not ray.wait([pending], timeout=0.5)[0]:
                    watch(shown.stage)
                result_of(pending)
            except BaseException:  # Ctrl-C, where Ray goes on: it was up before
                ray.cancel(pending, force=True)
                remove_room(str(folder))
                raise
        stage.finish(time.monotonic() - started, rows=len(rows))
    return done
