"""The driver actor of one iteration: search → step preferences → step-DPO → evaluation.

It holds no data: it reads folders, starts the stage that is due, and writes the manifest when the
stage is whole. It may die at any moment; the next one goes on from the files.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import ray

from actors.stream import run_rows
from actors.trainer import run_training
from psr_ray.config import Config, MethodConfig
from psr_ray.data.rows import TASK_SCHEMA
from psr_ray.data.stage import evaluation_files, write_data
from psr_ray.inference.tasks import output_folder
from psr_ray.measures.evaluation import model_figures, search_figures
from psr_ray.measures.provenance import provenance
from psr_ray.method.preferences import (
    PAIRS,
    PREFERENCE_SCHEMA,
    SOLUTION_SCHEMA,
    SOLUTIONS,
    preferences_of,
    solution_of,
)
from psr_ray.method.probes import PROBES, probes_of
from psr_ray.report.progress import ProgressWriter
from psr_ray.runs import RunDirectory
from psr_ray.stages import Step, model_path, steps_of
from psr_ray.storage.files import Json
from psr_ray.storage.shards import read_rows, shards, write_rows, write_shard
from psr_ray.telemetry.logs import StageLogger
from psr_ray.telemetry.trackers import track_evaluation
from psr_ray.training.worker import TrainingJob


@ray.remote(num_cpus=0, max_restarts=0)
class IterationDriver:
    """Does the stages of one iteration, one ``do`` call each."""

    def __init__(self, config: Config) -> None:
        self.run = RunDirectory(config)
        self.order = steps_of(self.run)
        self.steps = {step.stage.name: step for step in self.order}

    def do(self, name: str) -> Json:
        """Do a stage, unless it is complete; returns its manifest."""
        step = self.steps[name]
        if not step.stage.is_complete:
            started = time.time()
            log = StageLogger(step.stage.folder)
            log.info("stage started")
            step.stage.open()
            facts = getattr(self, f"_{step.kind}")(step)
            step.stage.finish(time.time() - started, **facts)
            step.stage.tidy()
            log.info("stage finished", extra={"seconds": round(time.time() - started, 1)})
        manifest = step.stage.manifest
        assert manifest is not None
        return manifest

    def _data(self, step: Step) -> Json:
        return write_data(self.run.config, step.stage.folder)

    def _sft(self, step: Step) -> Json:
        return self._train_job(step, "M0", None)

    def _train(self, step: Step) -> Json:
        k = step.iteration
        return self._train_job(step, f"M{k}", self.steps[f"preferences-{k}"].stage.folder)

    def _train_job(self, step: Step, start_from: str, preferences: Path | None) -> Json:
        folder = step.stage.folder
        run_training(
            TrainingJob(
                kind="sft" if preferences is None else "dpo",
                config=self.run.config,
                model=self._model(start_from),
                stage=step.title,
                run_dir=self.run.path,
                out=folder,
                data=self.steps["data"].stage.folder,
                preferences=preferences,
            )
        )
        facts: Json = json.loads((folder / "training.json").read_text())
        return facts

    def _search(self, step: Step) -> Json:
        k = step.iteration
        config = self.run.config.in_iteration(k)
        first = self._model("M1") if config.method.first_judges else None
        self._engines(step, [f"search-{k}"], config, first)
        return search_figures(step.stage.folder).summary()

    def _preferences(self, step: Step) -> Json:
        folder = step.stage.folder
        searched = self.steps[f"search-{step.iteration}"].stage.folder
        counts: Counter[str] = Counter()
        for shard in shards(output_folder(searched, "search")):
            searches = list(read_rows([shard]))
            rows = [pair for search in searches for pair in preferences_of(search)]
            solutions = [row for row in map(solution_of, searches) if row is not None]
            if solutions:
                write_shard(folder / SOLUTIONS, solutions, SOLUTION_SCHEMA)
            if rows:
                write_shard(folder / PAIRS, rows, PREFERENCE_SCHEMA)
            counts["solutions"] += len(solutions)
            counts["pairs"] += len(rows)
            counts["graded"] += sum(row["chosen_is_right"] is not None for row in rows)
            counts["chosen_right"] += sum(bool(row["chosen_is_right"]) for row in rows)
            counts["rejected_right"] += sum(bool(row["rejected_is_right"]) for row in rows)
        graded = counts["graded"]
        return {
            "num_pairs": counts["pairs"],
            "num_solutions": counts["solutions"],
            "chosen_right_share": counts["chosen_right"] / graded if graded else None,
            "rejected_right_share": counts["rejected_right"] / graded if graded else None,
        }

    def _evaluate(self, step: Step) -> Json:
        """Measure a model. Every model judges pairs of steps here, whatever the run's method."""
        config = self.run.config.model_copy(update={"method": MethodConfig()})
        inputs = evaluation_files(config, step.model)
        first = self.steps["evaluate-M1"].stage
        if step.iteration > 0 and (first.folder / PROBES).is_file():
            inputs.append(PROBES)
        self._engines(step, inputs, config)
        folder = step.stage.folder
        if step.model == "M1" and config.evaluation.num_probes:
            rows = probes_of(folder, config.evaluation.num_probes, config.seed)
            if rows:
                write_rows(folder / PROBES, rows, TASK_SCHEMA)
        before = self.steps[f"evaluate-M{max(step.iteration, 1)}"].stage
        figures = model_figures(folder, first=first.folder, before=before.folder)
        key, number = self.steps["data"].stage.key, int(step.model.removeprefix("M"))
        track_evaluation(self.run.config, folder, key, number, figures)
        return figures | {"measured_with": provenance(self.run.config)}

    def _model(self, name: str) -> str:
        return model_path(self.order, name, self.run.config)

    def _engines(
        self, step: Step, inputs: list[str], config: Config, first: str | None = None
    ) -> None:
        data = self.steps["data"].stage.folder
        probes = self.steps["evaluate-M1"].stage.folder / PROBES
        run_rows(
            [probes if name == PROBES else data / f"{name}.parquet" for name in inputs],
            step.stage.folder,
            self._model(step.model),
            config,
            ProgressWriter(self.run.path, step.title, "rows"),
            first,
        )


# Environment of a driver actor's process.
DRIVER_ENVIRONMENT = {"RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
