"""Nodes that cannot take part in a run, and rooms that never come, are refused in one line."""

import errno
import os
import re
import time
from contextlib import suppress
from pathlib import Path

import pytest
import ray
from conftest import ROOT
from ray._private.utils import check_version_info
from ray.util.placement_group import remove_placement_group

from actors.placement import await_room, room_for
from actors.pool import engine_pool
from psr_ray.cluster.capacity import Demand
from psr_ray.cluster.connect import join
from psr_ray.cluster.nodes import check_storage, check_versions, probe, versions_here
from psr_ray.config.file import load_config
from psr_ray.errors import PsrError
from psr_ray.storage.locations import location

SMOKE = load_config(ROOT / "configs" / "smoke.yaml")


def test_a_node_with_other_versions_is_refused_with_both():
    here = versions_here()
    assert here["ray"] == "2.60.0"
    assert "+" not in here["torch"]
    check_versions(here, "node-1")
    with pytest.raises(PsrError, match=r"node-1 has other versions .*\(vllm .* there, 0\.1 here\)"):
        check_versions(here | {"vllm": "0.1"}, "node-1")
    check_versions(here | {"vllm": None}, "node-1")  # a head without vLLM


def test_a_cluster_of_other_versions_is_refused_with_both(monkeypatch):
    def init(**arguments):
        theirs = {"ray_version": "2.1.0", "python_version": "3.10.1"}
        check_version_info(theirs, "node 10.0.0.1:6379", raise_on_mismatch=True)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(PsrError) as refused:
        join(SMOKE.telemetry)
    said = str(refused.value)
    assert re.match(
        rf"RAY_ADDRESS auto: Version mismatch: .* Ray: 2\.1\.0 .* Ray: {ray.__version__}", said
    )
    assert "ray job submit" in said
    assert "\n" not in said


def test_a_node_that_does_not_see_the_run_is_refused(tmp_path):
    marker = tmp_path / "config.yaml"
    with pytest.raises(PsrError, match=r"node-1 does not see .*config\.yaml .*set runs_dir to"):
        check_storage(marker, "node-1")
    with pytest.raises(PsrError, match="does not see"):
        check_storage(location("s3://psr-ray-not-there/x"), "node-1")
    assert "does not see" in str(probe(marker, versions_here()))
    marker.touch()
    assert probe(marker, versions_here()) is None
    assert list(tmp_path.iterdir()) == [marker]


def test_a_node_that_may_not_write_is_refused(tmp_path, monkeypatch):
    marker = tmp_path / "config.yaml"
    marker.touch()
    tmp_path.chmod(0o555)
    if os.geteuid() == 0:  # whom the mode does not stop
        monkeypatch.setattr(Path, "write_bytes", denied)
    said = f"cannot write to {tmp_path} (Permission denied): allow it (its"
    assert said in str(probe(marker, versions_here()))
    tmp_path.chmod(0o755)


def denied(path, _):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@pytest.mark.slow
def test_room_that_does_not_come_in_time_is_reported_and_given_up(ray_up):
    said = []
    other = room_for("other", Demand("engine(s)", 1, {"CPU": 1}, "x"), "PACK")
    ray.get(other.ready())
    demand = Demand("vLLM engine(s)", 1, {"CPU": 1, "GPU": 8}, "engine.tensor_parallel_size")
    with pytest.raises(
        PsrError, match=r"no room .* within 3 s .*8 GPU on one node.*engine\.tensor"
    ):
        await_room(room_for("a", demand, "STRICT_PACK"), demand, "search by M1", 3, said.append)
    assert said[0].startswith("waiting for 1 vLLM engine(s), each 1 CPU, 8 GPU on one node")
    assert "_group_" not in said[0]
    remove_placement_group(other)
    said.clear()
    demand = Demand("worker(s)", 2, {"CPU": 1}, "x")
    await_room(room := room_for("b", demand, "PACK"), demand, "train", 60, said.append)
    remove_placement_group(room)
    assert said == [None]


def free_cpus(wanted):
    """CPUs that are free, in the end."""
    for _ in range(100):
        if (found := ray.available_resources().get("CPU", 0)) == wanted:
            break
        time.sleep(0.1)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("how", ["an error", "its process dies"])
def test_room_for_an_engine_does_not_outlive_its_pool(ray_up, how):
    before = ray.cluster_resources()["CPU"]
    demand = Demand("vLLM engine(s)", 1, {"CPU": 1}, "engine.cpus_per_engine")
    with suppress(KeyError), engine_pool("test") as pool:
        room = ray.get(pool.room.remote(demand))
        await_room(room, demand, "search by M1", 60, lambda _: None)
        assert free_cpus(before - 1) == before - 1
        if how == "its process dies":
            ray.kill(pool, no_restart=False)
            assert ray.get(pool.starts.remote("search-1"), timeout=60) == 0  # another process
            assert free_cpus(before) == before
        raise KeyError
    assert free_cpus(before) == before


@pytest.mark.slow
def test_room_for_an_engine_is_kept_until_engines_end(ray_up):
    before = ray.cluster_resources()["CPU"]
    assert free_cpus(before) == before
    demand = Demand("vLLM engine(s)", 1, {"CPU": 1}, "engine.cpus_per_engine")
    with engine_pool("test") as pool:
        for _ in range(2):  # the second time it is there
            room = ray.get(pool.room.remote(demand))
            await_room(room, demand, "search by M1", 60, lambda _: None)
            assert free_cpus(before - 1) == before - 1
        ray.get(pool.rest.remote("restart", 0))
        assert free_cpus(before) == before
