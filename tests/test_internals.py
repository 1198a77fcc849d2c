"""Contracts with what is used of other projects beyond their public APIs (docs/compatibility.md)."""

import ast
import importlib.util
import inspect
import json
import re
from pathlib import Path

import pytest
from conftest import ROOT

from psr_ray import ray_internals
from psr_ray.config.file import load_config
from psr_ray.errors import PsrError
from psr_ray.runs import RunDirectory, stored_run
from psr_ray.storage.folders import FolderLock

ROOMS = {
    "psr_ray/ray_internals.py",
    "psr_ray/training/deepspeed_internals.py",
    "actors/ray_train_internals.py",
}
PRIVATE = re.compile(
    r"(ray|vllm|deepspeed|torch|transformers|peft|bitsandbytes)\.([\w.]*\.)?_(?!_)\w+"
    r"|ray\.core|vllm\.v1|deepspeed\.(ops|runtime)|deepspeed\.utils\.tensor_fragment"
)


def holds(condition, what):
    """One line that says what changed upstream."""
    if not condition:
        pytest.fail(f"{what}: see docs/compatibility.md", pytrace=False)


def source(thing):
    return inspect.getsource(thing)


def dotted(node):
    """``a.b.c`` of an import or of a chain of attributes; None for anything else."""
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return None if before is None else f"{before}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else None


def names_in(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield dotted(node) or ""


def test_internals_of_other_projects_are_used_in_their_rooms_alone():
    files = [p for folder in ("psr_ray", "actors", "jobs") for p in (ROOT / folder).rglob("*.py")]
    found = {
        str(path.relative_to(ROOT)): {name for name in names_in(path) if PRIVATE.match(name)}
        for path in files
    }
    assert {name for name, used in found.items() if used} == ROOMS
    page = (ROOT / "docs" / "compatibility.md").read_text()
    functions = [
        name
        for room in ROOMS
        for name in re.findall(r"^(?:def|class) (\w+)", (ROOT / room).read_text(), re.MULTILINE)
        if name not in ("_asked", "warn_once", "build_folder")
    ]
    assert [name for name in functions if f"`{name}" not in page] == []


def test_ray_keeps_loopback_where_clusters_are_off():
    from ray._private import ray_constants, services

    holds(hasattr(ray_constants, "ENABLE_RAY_CLUSTER"), "Ray has no ENABLE_RAY_CLUSTER any more")
    text = inspect.getsource(services)
    holds("ENABLE_RAY_CLUSTER" in text, "ray._private.services no longer reads ENABLE_RAY_CLUSTER")
    before = ray_constants.ENABLE_RAY_CLUSTER
    with ray_internals.on_loopback() as arguments:
        assert ray_constants.ENABLE_RAY_CLUSTER is False
        assert arguments == {"_node_ip_address": "127.0.0.1"}
    assert before == ray_constants.ENABLE_RAY_CLUSTER


def test_the_autoscalers_report_has_what_is_read_of_it():
    from ray.core.generated import autoscaler_pb2

    fields = autoscaler_pb2.AutoscalingState.DESCRIPTOR.fields_by_name
    for name in ("autoscaler_state_version", "infeasible_gang_resource_requests"):
        holds(name in fields, f"Ray's AutoscalingState has no {name} any more")
    state = autoscaler_pb2.AutoscalingState(autoscaler_state_version=1)
    gang = state.infeasible_gang_resource_requests.add()
    gang.requests.add().resources_bundle["GPU"] = 8.0
    assert [dict(r.resources_bundle) for r in gang.requests] == [{"GPU": 8.0}]


def test_what_the_autoscaler_cannot_place_is_read_or_given_up_with_one_warning(monkeypatch, caplog):
    from ray.core.generated import autoscaler_pb2

    state = autoscaler_pb2.AutoscalingState(autoscaler_state_version=1)
    state.infeasible_gang_resource_requests.add().requests.add().resources_bundle["GPU"] = 8.0
    monkeypatch.setattr(ray_internals, "autoscaling_state", lambda: state)
    assert ray_internals.infeasible_gangs() == [[{"GPU": 8.0}]]
    assert ray_internals.has_autoscaler() is True
    monkeypatch.setattr(ray_internals, "autoscaling_state", autoscaler_pb2.AutoscalingState)
    assert ray_internals.infeasible_gangs() == []
    assert ray_internals.has_autoscaler() is False

    def changed():
        raise AttributeError("moved")

    monkeypatch.setattr(ray_internals, "autoscaling_state", changed)
    assert [ray_internals.infeasible_gangs() for _ in range(2)] == [[], []]
    assert ray_internals.has_autoscaler() is None
    assert [r.message for r in caplog.records if "cannot be asked" in r.message] == [
        "Ray's autoscaler cannot be asked what it can place (AttributeError)"
    ]


@pytest.mark.slow
def test_a_local_ray_is_on_loopback_and_without_an_autoscaler(ray_up):
    import ray

    [address] = {node["NodeManagerAddress"] for node in ray.nodes()}
    holds(address == "127.0.0.1", f"a local Ray now listens on {address}")
    assert ray_internals.has_autoscaler() is False
    assert ray_internals.autoscaler_file() is None


def test_rays_autoscaler_is_started_with_its_file_on_the_command_line():
    from ray._private import services

    text = inspect.getsource(services)
    for option in ("--autoscaling-config=", "--gcs-address=", "monitor.py"):
        holds(option in text, f"Ray no longer starts its autoscaler with {option}")


def test_a_submitted_job_finds_its_id(monkeypatch):
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR as variable
    from ray.dashboard.modules.job import common

    holds(variable == "RAY_JOB_CONFIG_JSON_ENV_VAR", f"a job's config is now in {variable}")
    key = common.JOB_ID_METADATA_KEY
    holds(key == "job_submission_id", f"a job's id is now called {key}")
    assert ray_internals.submission_id() is None
    monkeypatch.setenv(variable, '{"metadata": {"job_submission_id": "x-1"}}')
    assert ray_internals.submission_id() == "x-1"


def uploaded_as(monkeypatch, uri):
    job = json.dumps({"runtime_env": {"working_dir": uri}})
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", job)


def test_what_was_uploaded_with_a_job_is_known(monkeypatch, tmp_path):
    assert ray_internals.upload_holding(tmp_path) is None
    uploaded_as(monkeypatch, "gcs://_ray_pkg_12ab.zip")
    (folder := tmp_path / "_ray_pkg_12ab").mkdir()
    monkeypatch.chdir(folder)
    assert ray_internals.upload_holding(Path("mine.jsonl")) == folder
    assert ray_internals.upload_holding(tmp_path) is None
    problems = "data.train=[{kind: file, path: mine.jsonl}]"
    config = load_config(ROOT / "configs" / "smoke.yaml", (problems,))
    assert config.data.train[0].path == "mine.jsonl"
    with pytest.raises(PsrError, match="deletes after the job; give a folder that every node sees"):
        FolderLock(config.run_dir).acquire()
    assert not config.run_dir.exists()
    # workers are started in the upload's own folder, wherever the job's process went
    (folder / "inner").mkdir()
    monkeypatch.chdir(folder / "inner")
    config = load_config(ROOT / "configs" / "smoke.yaml", (problems,))
    assert config.data.train[0].path == str(folder / "inner" / "mine.jsonl")


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("gcs://_ray_pkg_12ab.tar.gz", "_ray_pkg_12ab"),
        ("s3://bucket/code.zip", "s3_346b7484c376b2f09f726c2a06b2ca5ebe9c51ca"),
        ("https://example.org/main.zip", None),
        ("local:///home/main", None),
        ("/home/main", None),
    ],
)
def test_the_folder_of_an_upload_has_the_name_that_ray_gives_it(monkeypatch, tmp_path, uri, name):
    uploaded_as(monkeypatch, uri)
    assert ray_internals.upload_holding(tmp_path / "main" / "runs") is None
    if name is not None:
        held = tmp_path / "working_dir_files" / name
        assert ray_internals.upload_holding(held / "runs") == held


def test_a_run_of_a_jobs_uploaded_problems_is_not_another_runs_outside_the_job(
    monkeypatch, tmp_path
):
    """Its stages are keyed by the relative path: seen from elsewhere they are complete, and a config
    with another path is refused instead of redone."""
    (folder := tmp_path / "_ray_pkg_12ab").mkdir()
    settings = ("data.train=[{kind: file, path: mine.jsonl}]", f"runs_dir={tmp_path / 'runs'}")
    uploaded_as(monkeypatch, "gcs://_ray_pkg_12ab.zip")
    monkeypatch.chdir(folder)
    (folder / "mine.jsonl").write_text('{"problem": "1+1=", "answer": "2"}\n')
    run = RunDirectory(load_config(ROOT / "configs" / "smoke.yaml", settings))
    run.claim()
    run.release()
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR")
    assert stored_run(run.path).config.data == run.config.data
    other = RunDirectory(load_config(ROOT / "configs" / "smoke.yaml", settings))
    with pytest.raises(PsrError, match=r"'mine.jsonl'.* → .*_ray_pkg_12ab/mine\.jsonl"):
        other.claim()


def test_ray_trains_controller_starts_a_cleaner_by_a_default_callback():
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import (
        PlacementGroupCleanerCallback,
    )
    from ray.train.v2._internal.execution.controller.placement_group_cleaner import (
        PlacementGroupCleaner,
    )

    from actors.ray_train_internals import CleanTrainer

    holds(hasattr(TorchTrainer, "_create_default_callbacks"), "TorchTrainer's callbacks moved")
    text = source(PlacementGroupCleanerCallback.after_controller_start)
    for name in ("check_interval_s", "get_actor_timeout_s", "stop_timeout", "controller_actor_id"):
        holds(name in text, f"Ray Train's cleaner is no longer given {name}")
    holds(hasattr(PlacementGroupCleaner, "start_monitoring"), "the cleaner begins otherwise")
    assert CleanTrainer._create_default_callbacks is not TorchTrainer._create_default_callbacks


def test_ray_trains_backend_starts_with_its_workers_up():
    from ray.train.torch import TorchConfig

    from actors.ray_train_internals import NodesTorchConfig

    holds(isinstance(TorchConfig.backend_cls, property), "TorchConfig has no backend_cls")
    backend = TorchConfig().backend_cls
    arguments = list(inspect.signature(backend.on_start).parameters)
    holds(arguments[1:3] == ["worker_group", "backend_config"], "a backend starts otherwise")
    holds("worker_group.execute(" in source(backend), "a worker group does not execute")
    assert issubclass(NodesTorchConfig().backend_cls, backend)


def test_deepspeed_reads_checkpoints_by_the_reader_it_holds():
    from deepspeed.runtime.engine import DeepSpeedEngine

    text = source(DeepSpeedEngine)
    holds("self.checkpoint_engine.load(" in text, "DeepSpeed no longer reads by checkpoint_engine")


def test_deepspeed_asks_a_dict_whether_the_shared_memory_op_can_be_built():
    from deepspeed.comm.torch import build_shm_op
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    text = source(build_shm_op)
    holds(
        "__compatible_ops__.get(builder.NAME" in text, "DeepSpeed builds its shm op without asking"
    )
    name = ShareMemCommBuilder.NAME
    holds(name == "deepspeed_shm_comm", f"DeepSpeed's shared-memory op is now called {name}")


def test_deepspeed_without_zero_keeps_its_float32_weights_in_groups():
    from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer

    text = source(FP16_UnfusedOptimizer.__init__)
    kept = "fp32_group = [p.clone().float().detach() for p in self.fp16_groups[i]]"
    holds(kept in text and "self.fp32_groups.append(fp32_group)" in text, "DeepSpeed's optimizer")


def test_torch_marks_a_build_by_a_file_called_lock():
    import torch.utils.cpp_extension

    text = inspect.getsource(torch.utils.cpp_extension)
    holds(
        "FileBaton(os.path.join(build_directory, 'lock'))" in text, "torch marks builds otherwise"
    )


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
def test_bitsandbytes_asks_an_attribute_before_it_repacks_weights():
    from bitsandbytes.nn import Linear4bit

    found = "support_avx512bf16_for_cpu" in source(Linear4bit)
    holds(found, "bitsandbytes' Linear4bit has no support_avx512bf16_for_cpu any more")
