"""A network that fails between the hosts of a cluster: no row is lost, none counts twice."""

import contextlib
import time

import pytest
from host_cluster import (
    OUT,
    PROBLEMS,
    SMALL_SHARDS,
    STAGE,
    TO_STORAGE,
    HostCluster,
    run,
    search,
)  # fmt: skip

from psr_ray.runs import MANIFEST

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.long]
NUM = 96
# Within which a search ends after the cut. By Ray's own keepalive it took up to 330 s.
RECOVERS_S = 200
SEARCH = search(OUT, NUM, *SMALL_SHARDS)
STAGES = [
    "data", "evaluate-M0", "sft", "evaluate-M1", "search-1", "preferences-1", "train-1", "evaluate-M2",
]  # fmt: skip


def between(others, *, one_way=False):
    """What a host sends to others and, unless one way only, gets from them."""
    for other in others:
        yield ("OUTPUT", "-d", other.address)
        if not one_way:
            yield ("INPUT", "-s", other.address)


@pytest.mark.parametrize("how", ["20 s", "for ever", "one way"])
def test_a_worker_node_is_cut_off(hosts, tmp_path, record, how):
    cluster = HostCluster(hosts, tmp_path)
    with cluster.running(), cluster.psr_ray(*SEARCH) as searching, contextlib.ExitStack() as cut:
        cluster.await_rows("out", searching)
        gone = cluster.workers[1]
        packets = between([cluster.head, cluster.workers[0]], one_way=how == "one way")
        cut_at = time.time()
        cut.enter_context(gone.dropping(*packets))
        if how == "20 s":
            time.sleep(20)
            cut.close()
        assert searching.wait(RECOVERS_S) == 0, cluster.log
        took_s = time.time() - cut_at
        first = cluster.rows(STAGE, PROBLEMS)
        while time.time() < cut_at + 120 and how != "20 s":  # it may still write
            time.sleep(1)
        found = cluster.rows(STAGE, PROBLEMS)
        assert found["counted"] == first["counted"]
        if how != "20 s":  # its Ray has ended, and its engine with it
            assert not gone.left("raylet", "EngineWorker", "EngineCore")
        record(f"worker node cut off, {how}", 1, found["asked"], found["counted"], took_s)


def test_the_head_is_cut_off_from_the_host_of_the_command(hosts, tmp_path, record):
    cluster = HostCluster(hosts, tmp_path, num_workers=3)
    [ours, *_] = cluster.workers
    with cluster.running(), cluster.psr_ray(*SEARCH, host=ours) as searching:
        cluster.await_rows("out", searching)
        cut_at = time.time()
        with ours.dropping(*between([cluster.head])):
            time.sleep(20)
        assert searching.wait(RECOVERS_S) == 0, cluster.log
        found = cluster.rows(STAGE, PROBLEMS)
        took_s = time.time() - cut_at
        fault = "head cut off from the command's host, 20 s"
        record(fault, 1, found["asked"], found["counted"], took_s)


def test_two_packets_of_a_hundred_are_lost(hosts, tmp_path, record):
    cluster = HostCluster(hosts, tmp_path)
    lost = ("INPUT", "-i", "eth0", "-m", "statistic", "--mode", "random", "--probability", "0.02")
    began = time.time()
    with contextlib.ExitStack() as stack:
        for host in (cluster.storage, cluster.head, *cluster.workers):
            stack.enter_context(host.dropping(lost))
        stack.enter_context(cluster.running())
        searching = stack.enter_context(cluster.psr_ray(*SEARCH))
        assert searching.wait(600) == 0, cluster.log
        found = cluster.rows(STAGE, PROBLEMS)
        fault = "2 % of all packets lost (the whole search)"
        record(fault, 1, found["asked"], found["counted"], time.time() - began)


@pytest.mark.parametrize("stage", STAGES)
def test_the_storage_is_out_of_reach_for_a_minute(hosts, tmp_path, record, stage):
    cluster = HostCluster(hosts, tmp_path)
    with cluster.running(), cluster.psr_ray(*run()) as running:
        while not cluster.objects(f"runs/smoke/{stage}/"):
            assert running.poll() is None, cluster.log
            time.sleep(1)
        with cluster.storage.dropping(TO_STORAGE):
            assert not cluster.objects(f"runs/smoke/{stage}/{MANIFEST}"), (
                "it was over before the cut"
            )
            time.sleep(60)
        back_at = time.time()
        assert running.wait(300) == 0, cluster.log
        took_s = time.time() - back_at
        fault = f"storage out of reach for a minute, {stage}"
        record(fault, 1, *cluster.items("smoke"), took_s)
