"""Weights & Biases (offline) and MLflow (its own store in a folder) get what metrics.jsonl holds."""

import logging
import time

import pytest
from conftest import ROOT, SECRET
from mlflow import MlflowClient

from psr_ray.config import TelemetryConfig
from psr_ray.config.file import load_config
from psr_ray.doctor import check_inputs
from psr_ray.errors import PsrError
from psr_ray.telemetry import trackers
from psr_ray.telemetry.progress import ProgressWriter
from psr_ray.telemetry.trackers import Trackers, flat, track_evaluation
from psr_ray.training.metrics import MetricsWriter


@pytest.fixture
def stage(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "my run" / "train-1"
    folder.mkdir(parents=True)
    return folder


def offline_records(folder):
    """All that an offline W&B run has on disk, as text. Its service may write after `finish`."""
    [path] = folder.glob("wandb/offline-run-*/*.wandb")
    found, until = b"", time.monotonic() + 30
    while (now := path.read_bytes()) != found or len(now) < 100:  # the file's head alone has 7
        assert time.monotonic() < until
        found = now
        time.sleep(0.3)
    return found.decode("latin-1")


def test_a_training_is_tracked_by_both_and_a_resumed_one_continues(stage, tmp_path):
    telemetry = TelemetryConfig(wandb="my-project", mlflow=f"file:{tmp_path}/mlflow")
    for first in (1, 3):  # the second process resumes after step 2
        tracked = Trackers(telemetry, stage, "my run-train-1-key", {"lr": 0.5})
        progress = ProgressWriter(stage.parent, "step-DPO", "steps")
        writer = MetricsWriter(stage, progress, 4, 0, first - 1, tracked)
        for step in (first, first + 1):
            writer.write(step, {"dpo_loss": 1 / step, "lr": 0.1})
        writer.close()
        if first == 1:
            text = offline_records(stage)
            assert "my-project" in text
            assert "dpo_loss" in text
            for path in sorted((stage / "wandb").rglob("*"), reverse=True):
                path.unlink() if not path.is_dir() or path.is_symlink() else path.rmdir()
    client = MlflowClient(f"file:{tmp_path}/mlflow")
    experiment = client.get_experiment_by_name("my run")
    [run] = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "dpo_loss")
    assert [(m.step, m.value) for m in history] == [(s, 1 / s) for s in (1, 2, 3, 4)]
    assert run.data.params["lr"] == "0.5"
    assert run.info.status == "FINISHED"
    assert len((stage / "metrics.jsonl").read_text().splitlines()) == 4


def test_evaluations_are_one_curve_over_the_models(stage, tmp_path):
    config = load_config(
        ROOT / "configs" / "smoke.yaml", (f"telemetry.mlflow=file:{tmp_path}/mlflow",)
    )
    for k, accuracy in enumerate((0.1, 0.4)):
        folder = stage.parent / f"evaluate-M{k}"
        figures = {"accuracy": accuracy, "benchmarks": {"gsm8k": {"accuracy": accuracy / 2}}}
        figures["search"] = {
            "longer_wins": {"20+": {"pairs": 3, "share": 0.5}}
        }  # MLflow takes no +
        figures["test_time"] = {"search": accuracy}
        track_evaluation(config, folder, "key", k, figures | {"name": "M1", "ok": True})
    client = MlflowClient(f"file:{tmp_path}/mlflow")
    [run] = client.search_runs([client.get_experiment_by_name("my run").experiment_id])
    history = client.get_metric_history(run.info.run_id, "benchmarks/gsm8k/accuracy")
    assert [(m.step, m.value) for m in history] == [(0, 0.05), (1, 0.2)]
    assert run.data.metrics["test_time/search"] == 0.4
    assert run.data.metrics["search/longer_wins/20_/pairs"] == 3
    assert run.info.status == "FINISHED"
    assert flat({"a": {"b": 1}, "c": "x", "d": None, "e": True}) == {"a/b": 1.0}


def test_a_tracker_that_fails_warns_once_and_ends_nothing(stage, caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    telemetry = TelemetryConfig(mlflow="http://127.0.0.1:9")
    with caplog.at_level(logging.WARNING, "psr_ray"):
        tracked = Trackers(telemetry, stage, "key", {})
        tracked.log(1, {"loss": 1.0})
        tracked.close()
    [record] = caplog.records
    assert record.getMessage().startswith("telemetry.mlflow: ")
    assert "its metrics are in its files" in record.getMessage()
    assert SECRET not in record.getMessage()


def test_a_missing_package_is_named_before_any_work(monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    config = load_config(ROOT / "configs" / "smoke.yaml", ("telemetry.wandb=mine",))
    with pytest.raises(PsrError, match=r"telemetry\.wandb: .*`pip install 'psr-ray\[wandb\]'`"):
        check_inputs(config)
