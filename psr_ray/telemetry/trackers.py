"""Weights & Biases and MLflow: the metrics of trainings and evaluations, sent as they come.

Set by ``telemetry.wandb`` and ``telemetry.mlflow``. A tracker that fails warns once and is then left
out: a run's metrics are in its files, and no run fails for a tracker.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from psr_ray.config import Config, TelemetryConfig
from psr_ray.errors import PsrError, last_line
from psr_ray.storage.locations import is_remote, upload
from psr_ray.telemetry.logs import StageLogger

# Metrics of one request to MLflow.
MOST_METRICS = 500


class Tracker(Protocol):
    """Takes metrics by step; called from one thread."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class WandbTracker:
    """One W&B run a stage, in the group of psr-ray's run; a later process continues it."""

    def __init__(self, project: str, stage: Path, key: str, settings: Mapping[str, Any]) -> None:
        import wandb

        self.stage = stage
        self.here = Path(tempfile.mkdtemp(prefix="psr-ray-")) if is_remote(stage) else stage
        self.run = wandb.init(
            reinit="finish_previous",
            project=project,
            id=re.sub(r"[^\w-]", "-", key)[-120:],
            resume="allow",
            group=stage.parent.name,
            name=f"{stage.parent.name}/{stage.name}",
            dir=str(self.here),
            config=dict(settings),
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
        self.run.define_metric("*", step_metric="at")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        # not W&B's own step: that takes no figure for a step again, as a resumed training has them
        self.run.log({"at": step, **metrics})

    def close(self) -> None:
        self.run.finish()
        if is_remote(self.stage):  # its offline files are kept with the stage
            upload(self.here, self.stage)
            shutil.rmtree(self.here, ignore_errors=True)


class MlflowTracker:
    """One MLflow run a stage, in the experiment of psr-ray's run; a later process continues it."""

    def __init__(self, uri: str, stage: Path, key: str, settings: Mapping[str, Any]) -> None:
        # its own defaults would hold a training up for minutes where the server is away
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=uri)
        name = stage.parent.name
        found = self.client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self.client.create_experiment(name)
        before = self.client.search_runs([experiment], f"tags.psr_ray_key = '{key}'")
        if before:
            self.run_id = before[0].info.run_id
            return
        tags = {"psr_ray_key": key}
        run = self.client.create_run(experiment, run_name=stage.name, tags=tags)
        self.run_id = run.info.run_id
        for setting, value in settings.items():
            self.client.log_param(self.run_id, setting, str(value)[:500])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        named = [
            Metric(re.sub(r"[^/\w.\- ]", "_", name), value, now, step)
            for name, value in metrics.items()
        ]
        for start in range(0, len(named), MOST_METRICS):
            self.client.log_batch(self.run_id, named[start : start + MOST_METRICS])

    def close(self) -> None:
        self.client.set_terminated(self.run_id)


# By their settings, which are called as their packages and as the extras that bring these.
KINDS: dict[str, Callable[..., Tracker]] = {"wandb": WandbTracker, "mlflow": MlflowTracker}


class Trackers:
    """All trackers of a stage as one; a failing one is left out."""

    def __init__(
        self, telemetry: TelemetryConfig, stage: Path, key: str, settings: Mapping[str, Any]
    ) -> None:
        """Runs of the same ``key`` are continued; ``settings`` are logged with the run."""
        self._log = StageLogger(stage)
        self._active: dict[str, Tracker] = {}
        for name, kind in KINDS.items():
            where = getattr(telemetry, name)
            if where is not None:
                tracker = self._try(name, partial(kind, where, stage, key, settings))
                if tracker is not None:
                    self._active[name] = tracker

    def _try(self, name: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # of a tracker's client, its server, the network
            self._active.pop(name, None)
            self._log.warning(
                "telemetry.%s: %s; the stage continues without it, its metrics are in its files",
                name,
                last_line(error),
            )
            return None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, tracker in list(self._active.items()):
            self._try(name, partial(tracker.log, step, metrics))

    def close(self) -> None:
        for name, tracker in list(self._active.items()):
            self._try(name, tracker.close)


def check_trackers(telemetry: TelemetryConfig) -> str:
    """Where figures go beside files. Raises ``PsrError`` where a tracker's package is missing."""
    wanted = [name for name in KINDS if getattr(telemetry, name) is not None]
    for name in wanted:
        if find_spec(name) is None:
            raise PsrError(
                f"telemetry.{name}: the package {name} is not installed; "
                f"`pip install 'psr-ray[{name}]'` on every node, or set it to null"
            )
    return ", ".join(["TensorBoard", *wanted])


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of nested figures, by names such as ``benchmarks/gsm8k/accuracy``."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[f"{prefix}{name}"] = float(value)
    return found


def track_evaluation(
    config: Config, stage: Path, key: str, step: int, figures: Mapping[str, Any]
) -> None:
    """Send a model's figures on, with its number as the step: one curve a figure over the iterations.

    ``key`` is that of the run's data: a run started over has curves of its own."""
    telemetry = config.telemetry
    if telemetry.wandb is None and telemetry.mlflow is None:
        return
    trackers = Trackers(telemetry, stage, f"{config.name}-evaluations-{key}", {})
    trackers.log(step, flat(figures))
    trackers.close()
