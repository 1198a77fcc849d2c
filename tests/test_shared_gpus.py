"""Engines that sleep on GPUs that training uses (`engine.layout: colocated`): GPUs that Ray counts and
nobody has."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from conftest import ROOT
from ray.cluster_utils import Cluster
from ray.util.placement_group import remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.placement import room_for
from actors.pool import Engine, EnginePool
from actors.processes import alive_nodes, on_nodes
from actors.remote import this_node
from actors.trainer import EnginesGoneError, await_workers_room
from actors.training_group import TrainingGroup, demand_of, on_nodes_of
from psr_ray.cluster.capacity import demands_of, places_on
from psr_ray.config.file import load_config
from psr_ray.errors import PsrError
from psr_ray.inference.vllm_api import engine_arguments
from psr_ray.telemetry.progress import ProgressWriter
from psr_ray.training.job import TrainingJob

SHARED = (
    "engine.layout=colocated",
    "engine.tensor_parallel_size=1",
    "sft.use_gpu=true",
    "dpo.use_gpu=true",
)


def config_of(*settings):
    return load_config(ROOT / "configs" / "smoke.yaml", (*SHARED, *settings))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["engine.num_engines=[1,2]"], "as many engines as training workers.*is \\[1, 2\\]"),
        (["engine.num_engines=[4,4]"], "`sft.num_workers` 2"),
        (["engine.num_engines=[2,2]", "dpo.use_gpu=false"], "`dpo.use_gpu` false"),
        (["engine.tensor_parallel_size=2"], "needs `tensor_parallel_size` 0 or 1"),
    ],
)
def test_what_cannot_share_gpus_is_refused(settings, said):
    with pytest.raises(PsrError, match=said):
        config_of(*settings)


def test_only_engines_that_share_gpus_can_sleep():
    config = config_of("engine.num_engines=[2,2]")
    arguments = engine_arguments("model", config.model, config.engine, seed=0)
    assert arguments["enable_sleep_mode"]
    alone = config.engine.model_copy(update={"layout": "restart"})
    assert not engine_arguments("model", config.model, alone, seed=0)["enable_sleep_mode"]


def test_a_gpu_has_room_for_one_engine():
    engine, *_ = demands_of(config_of("engine.num_engines=[2,2]"))
    assert places_on({"CPU": 64, "GPU": 8}, engine.bundle) == 8


def start(demand, **options):
    """An actor that takes what the demand's processes take, and tells its node and GPU."""

    class Worker:  # by value: Ray's processes do not import the tests
        def gpu(self):
            context = ray.get_runtime_context()
            return context.get_node_id(), *context.get_accelerator_ids()["GPU"]

    resources = {"num_cpus": demand.bundle["CPU"], "num_gpus": demand.bundle["GPU"]}
    return ray.remote(Worker).options(**resources, **options).remote()


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("num", [2, 4, 6])
def test_each_engine_has_a_gpu_of_its_own_and_shares_it_with_one_training_worker(
    num, two_nodes_of_three_gpus
):
    config = config_of(
        f"engine.num_engines=[{num},{num}]", f"sft.num_workers={num}", f"dpo.num_workers={num}"
    )
    demand, *_ = demands_of(config)
    engines = [start(demand) for _ in range(num)]
    held = ray.get([engine.gpu.remote() for engine in engines], timeout=60)
    assert len(set(held)) == num
    job = TrainingJob(
        "sft", config, "model", "sft", Path(), Path(), Path(), nodes=tuple(node for node, _ in held)
    )
    wanted = demand_of(job)
    room = room_for("workers", wanted, "PACK", on_nodes_of(job))
    ray.get(room.ready(), timeout=60)
    inside = [
        PlacementGroupSchedulingStrategy(room, placement_group_bundle_index=i) for i in range(num)
    ]
    workers = [start(wanted, scheduling_strategy=place) for place in inside]
    assert sorted(ray.get([w.gpu.remote() for w in workers], timeout=60)) == sorted(held)
    remove_placement_group(room)


@pytest.fixture(scope="module")
def two_nodes_of_three_gpus():
    cluster = Cluster()
    cluster.add_node(num_cpus=16, num_gpus=3, include_dashboard=False)
    cluster.add_node(num_cpus=16, num_gpus=3)
    ray.init(address=cluster.address)
    yield
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
def test_what_belongs_beside_a_command_is_on_its_node(two_nodes_of_three_gpus):
    class Beside:
        def node(self):
            return ray.get_runtime_context().get_node_id()

    actor = ray.remote(num_cpus=0)(Beside)
    actors = [actor.options(scheduling_strategy=this_node()).remote() for _ in range(8)]
    found = ray.get([each.node.remote() for each in actors], timeout=60)
    assert set(found) == {ray.get_runtime_context().get_node_id()}


@pytest.mark.slow
def test_a_node_on_which_nothing_could_be_ended_is_named(two_nodes_of_three_gpus, caplog):
    here = ray.get_runtime_context().get_node_id()
    [other] = alive_nodes() - {here}
    on_nodes(lambda _: os.abort(), {other: None})
    assert f"on node {other}, which Ray counts as alive" in caplog.text


@pytest.mark.slow
def test_workers_train_beside_engines_that_sleep_or_alone(two_nodes_of_three_gpus):
    class Sleeper:
        def sleep(self):
            pass

    class Restless(Sleeper):
        def sleep(self):
            raise RuntimeError("out of memory")

    def pool_of(*kinds):
        pool = EnginePool()
        for name, kind in zip("abc", kinds, strict=False):
            pool.engines[name] = Engine(ray.remote(num_cpus=0)(kind).remote(), None)
            pool.engines[name].mark = {"node": here, "processes": []}
        return pool

    here = ray.get_runtime_context().get_node_id()
    pool = pool_of(Sleeper, Sleeper, Sleeper)
    pool.rest("colocated", 2)
    assert pool.beside(2) == (here, here)
    assert list(pool.engines) == ["a", "b"]
    pool.engines["b"].mark["node"] = "gone"
    assert pool.beside(2) == ()
    assert not pool.engines
    pool = pool_of(Sleeper, Restless, Sleeper)
    pool.rest("colocated", 2)
    assert list(pool.engines) == ["a"]
    assert pool.beside(2) == ()
    assert not pool.engines


@pytest.mark.slow
def test_room_beside_engines_that_have_gone_is_not_awaited(two_nodes_of_three_gpus, tmp_path):
    config = config_of("engine.num_engines=[2,2]")
    nodes = ("0" * 56, "1" * 56)
    job = TrainingJob("sft", config, "model", "sft", tmp_path, tmp_path, tmp_path, nodes=nodes)
    with pytest.raises(EnginesGoneError):
        await_workers_room(job, ProgressWriter(tmp_path, "sft", "steps"), tuple)


def test_a_group_goes_on_with_a_job_whose_engines_have_gone_meanwhile():
    config = config_of("engine.num_engines=[2,2]")
    job = TrainingJob("sft", config, "model", "sft", Path(), Path(), Path(), nodes=("a", "b"))
    group = TrainingGroup(keep=False)
    group.running, group.jobs = SimpleNamespace(done=lambda: False), [job]
    assert asyncio.run(group.is_up(replace(job, nodes=())))
    assert not asyncio.run(group.is_up(replace(job, nodes=(), model="another")))
    group.num_finished = 1
    assert not asyncio.run(group.is_up(replace(job, nodes=())))
