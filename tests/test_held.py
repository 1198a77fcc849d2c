"""What a run counts as held of the cluster."""

import time
from concurrent.futures import Future

import pytest
from conftest import ROOT

from actors.held import Held, worked
from actors.pool import Engine, EnginePool
from psr_ray.config.file import load_config


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_resources_are_counted_while_a_process_has_them(clock):
    held = Held()
    held.take("a", {"CPU": 2, "GPU": 1})
    clock[0] += 10
    held.take("a", {"CPU": 2, "GPU": 1})  # said again by another worker of the same
    held.take("b", {"GPU": 0.5}, ago_s=2)
    clock[0] += 10
    assert held.pop() == {"CPU": 40, "GPU": 26}
    held.leave("a")
    clock[0] += 4
    held.leave("b")
    held.leave("c")
    clock[0] += 100
    assert held.pop() == {"CPU": 0, "GPU": 2}
    assert held.pop() == {}


def test_engines_count_from_their_processes_on_while_the_pool_has_them(clock):
    pool, here, died = EnginePool(), Future(), Future()
    here.set_result({})
    died.set_exception(RuntimeError("actor died"))
    pool.engines = {"here": Engine(None, None), "died": Engine(None, None)}
    pool._placed("here", {"GPU": 1.0}, here)
    pool._placed("died", {"GPU": 1.0}, died)
    pool._placed("dropped meanwhile", {"GPU": 1.0}, here)
    clock[0] += 10
    assert pool.pop_held() == {"GPU": 10}


@pytest.mark.parametrize(
    ("settings", "engines", "workers"),
    [
        (["engine.layout=restart"], {"CPU": 10}, {"CPU": 8}),
        ([], {"CPU": 5}, {"CPU": 4}),  # colocated: each reserves half of the cores
        (
            ["engine.tensor_parallel_size=1", "engine.num_engines=[2,2]", "sft.use_gpu=true",
             "dpo.use_gpu=true"],
            {"CPU": 5, "GPU": 10}, {"CPU": 4, "GPU": 8},
        ),
    ],
)  # fmt: skip
def test_work_is_counted_in_what_is_held(settings, engines, workers):
    config = load_config(ROOT / "configs" / "smoke.yaml", settings)
    assert worked(config, "search", {"engines": {"busy_s": 10.0}}) == engines
    assert worked(config, "train", {"steps_s": 4.0}) == workers  # two of them
    assert worked(config, "data", {}) == {}
