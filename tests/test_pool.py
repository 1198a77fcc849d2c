"""The pool of engines: who gets which, without any process."""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import ray
from conftest import ROOT

from actors.client import EngineClient
from actors.desk import StageWork
from actors.pool import Engine, EnginePool
from actors.searcher import EngineWorker
from actors.stream import batches
from actors.trainer import resting
from psr_ray.cluster.capacity import NodeKind, check_apart, demands_of
from psr_ray.config.file import load_config
from psr_ray.errors import PsrError


class Pool(EnginePool):
    """Engines are names; ``ended`` are those that were ended."""

    def __init__(self):
        super().__init__()
        self.ended, self.busy, self.total, self.left = [], set(), 0, []

    def _end_left(self, names):
        for name in names:
            self._drop(name)

    def _is_idle(self, name):
        return name not in self.busy

    def _start(self, _work, _worker):
        self.total += 1
        name = f"engine-{self.total}"
        leave = SimpleNamespace(remote=lambda stage: self.left.append((name, stage)))
        self.engines[name] = Engine(SimpleNamespace(leave=leave), _work.judge)
        return name

    def _drop(self, name):
        if self.engines.pop(name, None):
            self.ended.append(name)
        self.leases = {key: held for key, held in self.leases.items() if held != name}


def work(stage, most=2):
    config = load_config(ROOT / "configs" / "smoke.yaml", [f"engine.num_engines=[1,{most}]"])
    return StageWork("model", config, Path(stage))


def lend(pool, stage, client, broken=None, most=2):
    name, *_ = pool.lend(work(stage, most), client, EngineWorker, broken)
    pool.ready(name, {"node": "here", "processes": [], "loading_s": 1.0})
    return name


@pytest.mark.parametrize("num", [1, 9, 65, 129, 1_000, 8_000, 100_000, 1_000_000])
@pytest.mark.parametrize("most", [1, 8, 64, 512])
@pytest.mark.parametrize("places", [1, 4, 64, 512])
def test_batches_have_all_rows_and_leave_no_engine_without_its_part(num, most, places):
    sizes, at_once = batches(num, most, places, per_shard=16)
    assert sum(sizes) == num
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= max(2 * places, -(-num // most))
    # all are handed out at once: at most one more to an engine than to another
    if at_once * most >= len(sizes):
        assert len(sizes) == min(num, at_once * most)
    else:
        assert at_once >= 2
        assert at_once * max(sizes) >= 3 * places
    assert len(sizes) <= max(10_000, 64 * most, num // places)


def test_clients_of_a_stage_have_engines_of_their_own_and_those_of_another_stage_the_same():
    pool = Pool()
    pool.begin("evaluate", "driver")
    first = [lend(pool, "evaluate", client) for client in "ab"]
    assert len(set(first)) == 2
    assert lend(pool, "evaluate", "a") == first[0]  # asked again, after its node came back
    pool.begin("search", "driver")
    assert {lend(pool, "search", client) for client in "cd"} == set(first)
    assert pool.total == 2


def test_a_client_whose_new_engine_has_no_room_shares_a_running_one():
    pool = Pool()
    pool.begin("search", "driver")
    dead, other = lend(pool, "search", "a"), lend(pool, "search", "b")
    name, *_ = pool.lend(work("search"), "a", EngineWorker, dead)  # not ready
    assert pool.share("search", name) == (other, pool.engines[other].actor)
    assert pool.share("evaluate", name) is None
    pool.finish("search")
    assert name in pool.ended
    assert other not in pool.ended


def test_a_dead_engine_is_replaced_once_and_a_client_beyond_the_most_shares_one():
    pool = Pool()
    pool.begin("search", "driver")
    dead, other = lend(pool, "search", "a"), lend(pool, "search", "b")
    new = lend(pool, "search", "a", broken=dead)
    assert new not in (dead, other)
    assert pool.ended == [dead]
    pool.busy = {new}
    assert lend(pool, "search", "c") == other  # Ray Data ended its client, and starts another
    assert pool.total == 3
    pool.busy = {new, other}  # none is taken from a client that is at work
    assert pool.lend(work("search"), "d", EngineWorker, None) is None
    assert pool.share("search", None)[0] in (new, other)
    assert pool.ended == [dead]


def test_an_engine_that_could_not_start_is_no_ones():
    pool = Pool()
    pool.begin("search", "driver")
    works = lend(pool, "search", "a")
    name, *_ = pool.lend(work("search"), "b", EngineWorker, None)
    pool.give_back("search", name)
    assert pool.ended == [name]
    again, *_ = pool.lend(work("search"), "c", EngineWorker, None)  # another client, another engine
    assert again not in (works, name)


@pytest.mark.parametrize("loads", [False, True])
def test_an_engine_that_could_not_load_a_model_goes_on_with_the_other_stage(loads):
    pool = Pool()
    pool.begin("evaluate", "driver")
    engine = lend(pool, "evaluate", "a")
    pool.begin("search", "driver")
    if not loads:
        assert lend(pool, "search", "b") == engine
    else:  # for the other stage, and for both
        engine, *_ = pool.lend(work("evaluate"), "a", EngineWorker, engine)
        assert pool.lend(work("search"), "b", EngineWorker, None)[0] == engine
        pool.ended.clear()
    pool.give_back("search", engine)
    assert pool.ended == []
    assert pool.leases == {("evaluate", "a"): engine}


def test_a_client_asks_again_where_all_engines_die_between_lending_and_sharing(monkeypatch):
    monkeypatch.setattr("actors.client.LOOK_S", 0)
    monkeypatch.setattr("actors.client.result_of", lambda found, **_: found)
    monkeypatch.setattr("actors.client.ray.get_runtime_context", Mock())
    lent = [None] * 8 + [("engine-1", Mock(), 1.0)]
    pool = Mock()
    pool.lend.remote.side_effect = lent
    pool.share.remote.return_value = None
    client = EngineClient(pool, work("search"), EngineWorker)
    assert (client.held, client.start_error) == (lent[-1][:2], None)


def test_a_driver_that_starts_a_stage_again_finds_its_engines_free():
    pool = Pool()
    pool.begin("search", "driver")
    engine = lend(pool, "search", "a")
    assert pool.begin("search", "driver") == 1
    assert lend(pool, "search", "b") == engine


def test_engines_without_the_model_that_judges_end_before_a_stage_that_needs_it(monkeypatch):
    monkeypatch.setattr("actors.pool.on_nodes", lambda *_: None)
    pool = Pool()
    pool.begin("evaluate-M1", "driver")
    old = lend(pool, "evaluate-M1", "a")
    assert pool.begin("search-2", "driver", judge="M1") == 0
    assert pool.ended == [old]
    pool.lend(replace(work("search-2"), judge="M1"), "b", EngineWorker, None)
    pool.ready("engine-2", {"node": "here", "processes": [], "loading_s": 1.0})
    assert pool.begin("evaluate-M3", "driver") == pool.begin("search-3", "driver", judge="M1") == 1


@pytest.mark.parametrize(("seconds", "given_back"), [(0.05, True), (60.0, False)])
def test_engines_that_wait_too_long_for_a_training_are_given_back(monkeypatch, seconds, given_back):
    monkeypatch.setattr("actors.trainer.result_of", lambda _: None)
    rests = []
    pool = SimpleNamespace(rest=SimpleNamespace(remote=lambda *how: rests.append(how)))
    settings = {"max_idle_s": seconds, "layout": "colocated"}
    with resting(pool, work("search").config.engine.model_copy(update=settings)):
        time.sleep(0.3)
    assert rests == [("colocated", 1), *([("restart", 0)] if given_back else [])]
    time.sleep(0.1)
    assert len(rests) == 1 + given_back


def test_engines_that_never_got_a_place_end_with_their_stage():
    pool = Pool()
    pool.begin("search", "driver")
    engine = lend(pool, "search", "a")
    pool.lend(work("search"), "b", EngineWorker, None)  # waits for a node that does not come
    pool.begin("evaluate", "driver")  # beside it
    assert len(pool.engines) == 2
    assert lend(pool, "evaluate", "c") == engine
    pool.finish("search")
    assert list(pool.engines) == [engine]
    assert pool.ended == ["engine-2"]


@pytest.mark.slow
def test_an_engine_that_waits_for_room_is_not_started_after_its_stage(ray_up):
    pool, waiting = EnginePool(), work("search")
    large = waiting.config.engine.model_copy(update={"cpus_per_engine": 512})
    waiting = replace(waiting, config=waiting.config.model_copy(update={"engine": large}))
    pool.begin("search", "driver")
    name, *_ = pool.lend(waiting, "a", EngineWorker, None)
    place = pool.engines[name].place
    assert ray.wait([place], timeout=1)[0] == []  # no such node
    pool.finish("search")
    with pytest.raises(ray.exceptions.RayActorError):  # and not a timeout
        ray.get(place, timeout=10)


def test_engines_and_training_apart_need_room_for_both():
    config = load_config(ROOT / "configs" / "smoke.yaml", ["engine.layout=apart"])
    engines, *trainings = demands_of(config)
    most = engines.num + max(t.num for t in trainings)
    check_apart(config, [NodeKind("node", {"CPU": most}, 1)])
    with pytest.raises(
        PsrError, match=f"ask for {most} CPU together, the cluster can have {most - 1}"
    ):
        check_apart(config, [NodeKind("node", {"CPU": most - 1}, 1)])
    shared = config.model_copy(update={"engine": replace_layout(config.engine, "colocated")})
    assert [demand.bundle["CPU"] for demand in demands_of(shared)] == [0.5] * 3


def replace_layout(engine, layout):
    return engine.model_copy(update={"layout": layout})


def test_a_new_driver_finds_no_engine_that_works_for_the_one_that_died():
    pool = Pool()
    pool.begin("evaluate", "driver")
    engines = [lend(pool, "evaluate", client, most=8) for client in "abcdefgh"]
    pool.busy = set(engines[1:])
    assert pool.begin("evaluate", "another") == 1
    assert pool.ended == engines[1:]
    assert lend(pool, "evaluate", "i", most=8) == engines[0]
    assert pool.begin("search", "another") == 1  # beside it


def test_a_pool_that_was_started_again_knows_its_driver():
    pool = Pool()  # has not seen the driver begin
    first = replace(work("evaluate"), attempt="driver")
    engine, *_ = pool.lend(first, "a", EngineWorker, None)
    pool.ready(engine, {"node": "here", "processes": [], "loading_s": 1.0})
    pool.busy = {engine}
    assert pool.begin("search", "driver") == 1  # beside it
    assert pool.leases == {("evaluate", "a"): engine}
    assert pool.ended == []


def test_engines_leave_a_stage_that_has_ended():
    pool = Pool()
    pool.begin("evaluate", "driver")
    engine = lend(pool, "evaluate", "a")
    pool.begin("search", "driver")
    lend(pool, "search", "b")
    pool.finish("evaluate")
    assert pool.left == [(engine, "evaluate")]
