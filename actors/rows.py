"""Rows of one kind through engines, outside a run: `psr-ray search`, `evaluate`, `build_seed.py`."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from actors.remote import result_of
from actors.searcher import EngineWorker
from actors.stream import run_rows
from psr_ray.cluster.capacity import check_capacity, engine_demand
from psr_ray.config import Config, SourceConfig
from psr_ray.data.files import Failures
from psr_ray.data.rows import TASK_SCHEMA, output_folder
from psr_ray.data.sources import problem_rows
from psr_ray.doctor import check_model, check_plugins
from psr_ray.errors import PsrError
from psr_ray.runs import Stage, content_key, fingerprint
from psr_ray.stages import GENERATION_SETTINGS, settings_of
from psr_ray.storage.files import Row
from psr_ray.storage.folders import FolderLock, disk_checked
from psr_ray.storage.locations import location
from psr_ray.storage.shards import write_rows
from psr_ray.telemetry.progress import ProgressWriter


def do_rows(
    config: Config,
    tasks: Sequence[str],
    model: str,
    problems: str | None,
    num: int,
    out: str,
) -> Path:
    """Do problems with any model, once for each of some tasks (``search``, ``solve``, ``sample``).

    Returns the folder of the first task's shards, beside which the others' lie.

    Without a problems file the config's held-out source is used. Rerunning resumes.
    """

    config = config.in_iteration(1)
    model = model or config.model.base
    check_plugins(config)
    check_model(model, config)
    source = config.data.heldout
    if problems is not None:
        source = SourceConfig(kind="file", path=problems)
    source = source.model_copy(update={"num": num})
    failures = Failures()
    rows = list(problem_rows(source, "heldout", tasks[0], config.seed, failures))
    if "solve" in tasks and all(row["answer"] is None for row in rows):
        raise PsrError(
            f"{source.path}: no problem has an answer to grade by; give a file with `answer`"
        )
    folder = location(out).absolute()
    settings = settings_of(config, *GENERATION_SETTINGS, "search", "method", "evaluation")
    settings |= {"model": fingerprint(model), "problems": rows}
    if len(tasks) > 1:
        settings["tasks"] = list(tasks)
    stage = Stage(tasks[0], folder, content_key(tasks[0], settings, []))
    for failure in failures.items:
        logging.getLogger("psr_ray").warning(
            "%s line %d left out: %s", failure["file"], failure["line"], failure["reason"]
        )
    rows = [row | {"task": task} for task in tasks for row in rows]
    return engine_stage(config, stage, rows, tasks[0], model)


def engine_stage(
    config: Config,
    stage: Stage,
    rows: Sequence[Row],
    task: str,
    model: str,
    worker: type[EngineWorker] | None = None,
    progress: ProgressWriter | None = None,
) -> Path:
    """Do task rows in a folder of their own; returns the folder of the shards of one kind.

    ``worker`` takes the place of an engine's; ``progress`` is that of a run's stage, else the folder has
    one. Rerunning resumes; completed work is not repeated.
    """
    from psr_ray.cluster.connect import connected

    folder = stage.folder
    done = output_folder(folder, task)
    if stage.is_complete:
        return done
    stage.check_free("another model, config or set of problems")
    started = time.monotonic()
    inputs = [folder / "problems.parquet"]
    with disk_checked(folder), FolderLock(folder):
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
            taken = worker or EngineWorker
            result_of(do.remote(inputs, folder, model, config, shown, worker=taken))
        stage.finish(time.monotonic() - started, rows=len(rows))
    return done
