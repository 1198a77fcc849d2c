"""psr-ray from Python: look at a model, run a config, read what a run wrote.

import psr_ray

search = psr_ray.search("Qwen/Qwen2.5-1.5B-Instruct", ["A train …?"])[0]
figures = psr_ray.evaluate("Qwen/Qwen2.5-1.5B-Instruct", "gsm8k", num=100)
run = psr_ray.run(psr_ray.DEMO, "seed=1")
run = psr_ray.load_run("runs/demo")
run.summary["models"][-1]["accuracy"], run.models["M2"], run.preferences(1).to_pandas()
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from psr_ray.config import Config
from psr_ray.config.file import config_of, load_config, with_absolute_paths
from psr_ray.data.rows import output_folder
from psr_ray.embedded import DEMO
from psr_ray.errors import PsrError
from psr_ray.method.preferences import PAIRS
from psr_ray.report.summary import summarize
from psr_ray.run_models import made_models, model_path
from psr_ray.runs import RunDirectory, stored_run
from psr_ray.stages import planned_stages
from psr_ray.storage.files import Json, read_table
from psr_ray.storage.locations import location
from psr_ray.storage.shards import shards

__all__ = ["DEMO", "Run", "evaluate", "load_run", "run", "search"]

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Run:
    """A run's folder, complete or in part."""

    directory: RunDirectory

    @property
    def path(self) -> Path:
        """The folder."""
        return self.directory.path

    @property
    def config(self) -> Config:
        """The config as it was resolved."""
        return self.directory.config

    @property
    def summary(self) -> Json:
        """The figures of all models so far, as in summary.json."""
        return summarize(self.directory)

    @property
    def models(self) -> dict[str, str]:
        """Folder (or Hub id) of the model that the run starts from, and of each that it has made."""
        plan = planned_stages(self.directory)
        names = [self.config.model_names[0], *made_models(plan)]
        return {name: model_path(plan, name, self.config) for name in names}

    def searches(self, iteration: int) -> Dataset:
        """The searches of an iteration, counted from 1: a row a problem, with all steps, candidates and
        verdicts. Raises ``PsrError`` where there are none yet."""
        return self._dataset(f"search-{iteration}", "search")

    def preferences(self, iteration: int) -> Dataset:
        """The step preferences of an iteration, a row a pair. Raises ``PsrError`` where there are none
        yet."""
        return self._dataset(f"preferences-{iteration}", PAIRS)

    def _dataset(self, stage: str, kind: str) -> Dataset:
        found = {
            planned.stage.name: planned.stage.folder for planned in planned_stages(self.directory)
        }
        if stage not in found:
            raise PsrError(f"{self.path}: no stage {stage}; the stages are {', '.join(found)}")
        return dataset_of(output_folder(found[stage], kind))


def dataset_of(folder: Path) -> Dataset:
    """The rows of a folder's shards. Raises ``PsrError`` where there are none."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

    tables = []
    for path in shards(folder):
        with path.open("rb") as file:
            tables.append(pq.read_table(file))
    if not tables:
        raise PsrError(f"{folder}: nothing here yet; run it first")
    return Dataset(pa.concat_tables(tables))


def load_run(folder: str | Path) -> Run:
    """The run in a folder, or at a URL. Raises ``PsrError`` where there is none."""
    return Run(stored_run(location(folder)))


def run(config: str | Path | Config, *overrides: str) -> Run:
    """Do a run as `psr-ray run` does, quietly; resumes what was interrupted. ``overrides`` are such as
    ``search.top_p=0.9``, for a config in a file. Raises ``PsrError`` for what a user can correct."""
    from actors.pipeline import run_pipeline
    from psr_ray.doctor import check_inputs
    from psr_ray.report.display import NoDisplay
    from psr_ray.report.html import write_report

    settings = config_for(config, "", overrides)
    check_inputs(settings)
    summary = run_pipeline(settings, NoDisplay())
    write_report(settings.run_dir, summary)
    return load_run(settings.run_dir)


def config_for(config: str | Path | Config | None, model: str, overrides: Sequence[str]) -> Config:
    """The config, from a file or as it is; without one, settings that fit a model and this machine."""
    from psr_ray.planning.choose import quick_settings

    if isinstance(config, Config):
        if overrides:
            raise PsrError("overrides go with a config file; change a Config by model_copy")
        return with_absolute_paths(config)
    if config is None:
        return config_of(quick_settings(model), overrides, f"model {model}")
    return load_config(config, overrides)


def search(
    model: str,
    problems: Sequence[str] | str | Path,
    *overrides: str,
    config: str | Path | Config | None = None,
    num: int = 10_000,
    out: str | Path | None = None,
) -> Dataset:
    """Step searches of problems: texts, or at most ``num`` of a file. A row a problem, in their order,
    with all steps, candidates and verdicts, as ``Run.searches`` gives them.

    Without a ``config``, settings fit the model and this machine. What was searched before is not done
    again. Raises ``PsrError`` for what a user can correct.
    """
    from actors.rows import do_rows

    path = str(problems) if isinstance(problems, str | Path) else None
    texts = () if isinstance(problems, str | Path) else tuple(problems)
    if path is None and not texts:
        raise PsrError("psr_ray.search: no problems given")
    settings = config_for(config, model, overrides)
    folder = do_rows(settings, ["search"], model, path, num, out, texts)
    found = dataset_of(folder)
    asked = read_table(folder.parent / "problems.parquet", ["id"])["id"].to_pylist()
    places = {name: place for place, name in enumerate(found["id"])}
    return found.select([places[name] for name in asked])


def evaluate(
    model: str,
    benchmark: str,
    *overrides: str,
    config: str | Path | Config | None = None,
    num: int = 10_000,
    out: str | Path | None = None,
    test_time: bool = False,
) -> Json:
    """Greedy accuracy of a model on a benchmark, by name or from a file, with Wilson's interval; with
    ``test_time`` also step search, pass@k, majority and best of k.

    Without a ``config``, settings fit the model and this machine. Raises ``PsrError`` for what a user
    can correct.
    """
    from actors.rows import measure

    settings = config_for(config, model, overrides)
    return measure(settings, model, benchmark, None, num, out, test_time=test_time)[0]
