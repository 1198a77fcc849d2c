"""The driver actor of one iteration: search, step preferences, step-DPO, evaluation.

Engines, training workers and tasks read and write the stages' folders; it has no copy of their rows. It
may die at any moment; another one resumes from the files.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Collection
from concurrent.futures import Future, as_completed, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from actors.held import worked
from actors.preferences import build_preferences
from actors.remote import in_task, result_of
from actors.seed import eft_stage, ift_stage
from actors.stream import run_rows
from actors.trainer import resting, run_training
from psr_ray.config import Config
from psr_ray.data.rows import TASK_SCHEMA
from psr_ray.data.stage import evaluation_files, write_data
from psr_ray.measures.evaluation import model_figures, search_figures
from psr_ray.measures.probes import PROBES, probes_of
from psr_ray.measures.provenance import provenance
from psr_ray.run_models import drop_old_models, evaluated_before, model_path
from psr_ray.runs import WEIGHTS_MARK, RunDirectory
from psr_ray.stages import PlannedStage, planned_stages, with_seed_files
from psr_ray.storage.files import Json
from psr_ray.storage.shards import write_rows
from psr_ray.telemetry.logs import StageLogger
from psr_ray.telemetry.progress import ProgressWriter
from psr_ray.telemetry.trackers import track_evaluation
from psr_ray.training.average import AVERAGES, write_means
from psr_ray.training.examples import check_eft
from psr_ray.training.job import TrainingJob


@ray.remote(num_cpus=0, max_restarts=0)
class IterationDriver:
    """Runs one iteration: 0 makes M1 from M0 (or measures M1), k makes M(k+1) from Mk (section 3).

    ``wanted`` names the stages to run; the others are left out. ``pool`` has the run's engines,
    ``group`` its training workers.
    """

    def __init__(self, config: Config, wanted: Collection[str], pool: Any, group: Any) -> None:
        import ray.data  # noqa: F401 (here: this process may be started ahead)

        self.config = config
        self.pool, self.group = pool, group
        self.wanted = wanted
        self.plan = planned_stages(RunDirectory(config))
        self.stages = {planned.stage.name: planned for planned in self.plan}
        self.ended = 0.0  # when the command's last stage did
        self.measuring: Future[None] | None = None  # an evaluation, beside a search
        self.is_handed_out = threading.Event()  # all of it
        self.averaging = threading.Lock()  # an evaluation and a search ask for the same judge
        self.attempt = uuid.uuid4().hex

    def run(self, iteration: int, since: float) -> float:
        """Run the stages of an iteration that are not complete, in order; Mk is measured as it begins to
        search, the last model at the end.

        ``since`` is when the command's last stage ended (Unix seconds); returns when this one's did."""
        k, last = iteration, self.config.num_iterations
        self.ended = since
        if k == 0:
            self.stage("seed-ift", self.make_ift)
            self.stage("seed-eft", self.make_eft)
            self.stage("data", self.write_data)
            if self.config.sft is not None:
                self.stage("evaluate-M0", self.evaluate)
                self.stage("sft", self.fine_tune)
        else:
            self.measure_and_search(k)
            self.stage(f"preferences-{k}", self.build_preferences)
            self.stage(f"train-{k}", self.train)
        if k == last:
            self.stage(f"evaluate-M{k + 1}", self.evaluate)
        drop_old_models(self.config, self.plan)
        return self.ended

    def measure_and_search(self, k: int) -> None:
        """Mk's evaluation, and its search once the engines have no more of the evaluation to wait for
        them: one fills up what the other leaves free."""
        evaluation, search = f"evaluate-M{k}", f"search-{k}"
        if not (self.is_due(evaluation) and self.is_due(search)):
            self.stage(evaluation, self.evaluate)
            self.stage(search, self.search)
            return
        self.measuring = in_thread(self.stage, evaluation, self.evaluate)
        while not (self.measuring.done() or self.is_handed_out.wait(timeout=0.2)):
            continue
        if self.measuring.done():
            self.measuring.result()
        searching = in_thread(self.stage, search, self.search)
        for first in as_completed([self.measuring, searching]):
            first.result()  # an error of one ends the driver, and with it the other

    def is_due(self, name: str) -> bool:
        """Whether a stage is wanted and not complete."""
        return name in self.wanted and not self.stages[name].stage.is_complete

    def stage(self, name: str, body: Callable[[PlannedStage], Json]) -> None:
        """Open a stage's folder, run it and write its manifest, unless it is complete or not wanted.

        ``wall_s`` runs from the end of the stage before, so that the stages' times add up to the run's.
        It includes the start of a driver; what was done while that stage still ran is ``beside_s``."""
        if not self.is_due(name):
            return
        planned = self.stages[name]
        stage = planned.stage
        started, log = time.time(), StageLogger(stage.folder)
        log.info("stage started")
        stage.open()
        facts = body(planned)
        held, work = held_by(self.pool, self.group), worked(self.config, planned.kind, facts)
        before, self.ended = self.ended, time.time()
        beside_s = max(before - started, 0.0)
        facts |= {"beside_s": beside_s, "held": held, "worked": work}
        stage.finish(self.ended - before, **facts)
        stage.tidy()
        log.info("stage finished", extra={"seconds": round(self.ended - started, 1)})

    def make_ift(self, planned: PlannedStage) -> Json:
        """Worked solutions in steps, for the fine-tuning."""
        return in_task(ift_stage, self.config, planned.stage.folder, self._progress(planned))

    def make_eft(self, planned: PlannedStage) -> Json:
        """Judged pairs of steps, for the fine-tuning."""
        return in_task(eft_stage, self.config, planned.stage.folder, self._progress(planned))

    def write_data(self, planned: PlannedStage) -> Json:
        config = with_seed_files(self.config, self.plan)
        facts = in_task(write_data, config, planned.stage.folder)
        in_task(check_eft, config, planned.stage.folder)
        return facts

    def fine_tune(self, planned: PlannedStage) -> Json:
        """M1: M0 fine-tuned on solutions in steps and judged pairs."""
        return self._train(planned, "M0", None)

    def search(self, planned: PlannedStage) -> Json:
        """Mk searches its problems step by step and judges the candidates, or M1 does."""
        k, folder = planned.iteration, planned.stage.folder
        config = self.config.in_iteration(k)
        progress = self._progress(planned, is_shown=self._is_measured)
        used = self._run_engines(planned, [self._data(f"search-{k}")], config, progress)
        if self.measuring is not None:
            wait([self.measuring])  # so that stages end in their order
        return in_task(search_summary, folder) | {"engines": used}

    def build_preferences(self, planned: PlannedStage) -> Json:
        searched = self.stages[f"search-{planned.iteration}"].stage.folder
        return build_preferences(searched, planned.stage.folder)

    def train(self, planned: PlannedStage) -> Json:
        """M(k+1): Mk trained by step-DPO on its step preferences."""
        k = planned.iteration
        return self._train(planned, f"M{k}", self.stages[f"preferences-{k}"].stage.folder)

    def evaluate(self, planned: PlannedStage) -> Json:
        """Measure a model. Every model judges pairs of steps here, whatever the run's method."""
        config = self.config.as_measured()
        folder, first = planned.stage.folder, self.stages["evaluate-M1"].stage.folder
        inputs = [self._data(name) for name in evaluation_files(config, planned.model)]
        if planned.model not in ("M0", "M1") and (first / PROBES).is_file():
            inputs.append(first / PROBES)
        used = self._run_engines(planned, inputs, config, self._progress(planned))
        if planned.model == "M1" and config.evaluation.num_probes:
            in_task(write_probes, folder, config.evaluation.num_probes, config.seed)
        model_before = evaluated_before(self.plan, planned.model)
        before = self.stages[f"evaluate-{model_before}"].stage.folder
        figures = in_task(model_figures, folder, first=first, before=before)
        key, number = self.stages["data"].stage.key, int(planned.model.removeprefix("M"))
        track_evaluation(self.config, folder, key, number, figures)
        facts = {
            "engines": used,
            "model_before": model_before,
            "measured_with": provenance(self.config),
        }
        return figures | facts

    def _train(self, planned: PlannedStage, start_from: str, preferences: Path | None) -> Json:
        folder = planned.stage.folder
        job = TrainingJob(
            kind="sft" if preferences is None else "dpo",
            config=self.config,
            model=self._model(start_from),
            stage=planned.title,
            run_dir=self.config.run_dir,
            out=folder,
            data=self.stages["data"].stage.folder,
            preferences=preferences,
            round=(max(planned.iteration, 1), max(self.config.num_iterations, 1)),
        )
        with resting(self.pool, self.config.engine) as beside:
            run_training(job, self.group, beside)
        facts: Json = json.loads((folder / "training.json").read_text())
        return facts

    def _run_engines(
        self, planned: PlannedStage, inputs: list[Path], config: Config, progress: ProgressWriter
    ) -> Json:
        """Have the engines do a stage's rows. They have M1, or an average, beside the policy from M2 on,
        where that judges searches: evaluation and search share them."""
        model = self._model(planned.model)
        number = int(planned.model.removeprefix("M"))
        judges = number > 1 and self.config.method.other_judges
        judge = self._judge(number) if judges else None
        is_evaluation = planned.kind == "evaluate"
        return run_rows(
            inputs,
            planned.stage.folder,
            model,
            config,
            progress,
            judge,
            pool=self.pool,
            attempt=self.attempt,
            handed_out=self.is_handed_out.set if is_evaluation else None,
        )

    def _progress(self, planned: PlannedStage, **options: Any) -> ProgressWriter:
        return ProgressWriter(self.config.run_dir, planned.title, "rows", **options)

    def _is_measured(self) -> bool:
        """Whether no evaluation is under way."""
        return self.measuring is None or self.measuring.done()

    def _model(self, name: str) -> str:
        return model_path(self.plan, name, self.config)

    def _judge(self, number: int) -> str:
        """The model that judges beside Mnumber: M1, or the mean of M1 to Mnumber, made where it is not
        there yet."""
        if number == 1 or self.config.method.judge == "first":
            return self._model("M1")
        models = [self._model(f"M{k}") for k in range(1, number + 1)]
        keys = [self.stages[f"train-{k}"].stage.key for k in range(1, number)]
        means = [self.config.run_dir / AVERAGES / key for key in keys]
        with self.averaging:
            if not (means[-1] / WEIGHTS_MARK).is_file():
                in_task(write_means, models, means)
        return str(means[-1])

    def _data(self, name: str) -> Path:
        return self.stages["data"].stage.folder / f"{name}.parquet"


def in_thread(function: Callable[..., None], *arguments: Any) -> Future[None]:
    """Call a function in a thread that ends with the process at the latest."""
    future = Future[None]()

    def call() -> None:
        try:
            function(*arguments)
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


def held_by(*actors: Any) -> dict[str, float]:
    """What the run's engines and training workers held since a stage ended: resources times seconds."""
    total = dict[str, float]()
    for actor in actors:
        with suppress(RayError):  # its process starts again; what it counted is lost
            for resource, seconds in result_of(actor.pop_held.remote()).items():
                total[resource] = total.get(resource, 0.0) + seconds
    return total


def search_summary(folder: Path) -> Json:
    """Figures of a search stage, for its manifest."""
    return search_figures(folder).summary()


def write_probes(folder: Path, num: int, seed: int) -> None:
    """Keep steps of M1's searches for later models to rank again."""
    rows = probes_of(folder, num, seed)
    if rows:
        write_rows(folder / PROBES, rows, TASK_SCHEMA)
