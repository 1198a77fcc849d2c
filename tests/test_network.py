"""A network that fails between the hosts of a cluster: no row is lost, none counts twice."""

import time

import pytest
from host_cluster import OUT, PORT, PROBLEMS, SMALL_SHARDS, STAGE, HostCluster, run, search

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.long]
NUM = 96
SEARCH = search(OUT, NUM, *SMALL_SHARDS)
STAGES = [
    "data", "evaluate-M0", "sft", "evaluate-M1", "search-1", "preferences-1", "train-1", "evaluate-M2",
]  # fmt: skip


def apart(host, others, *, one_way=False):
    """iptables rules that keep a host from others, not from the storage."""
    for other in others:
        yield ("OUTPUT", "-d", other.address, "-j", "DROP")
        if not one_way:
            yield ("INPUT", "-s", other.address, "-j", "DROP")


@pytest.mark.parametrize("how", ["20 s", "for ever", "one way"])
def test_a_worker_node_is_cut_off(hosts, tmp_path, record, how):
    cluster = HostCluster(hosts, tmp_path)
    with cluster.running(), cluster.psr_ray(*SEARCH) as searching:
        cluster.await_rows("out", searching)
        gone = cluster.workers[1]
        rules = list(apart(gone, [cluster.head, cluster.workers[0]], one_way=how == "one way"))
        for rule in rules:
            gone.firewall("-A", *rule)
        cut_at = time.time()
        if how == "20 s":
            time.sleep(20)
            for rule in rules:
                gone.firewall("-D", *rule)
        assert searching.wait(400) == 0, cluster.log
        took_s = time.time() - cut_at
        first = cluster.rows(STAGE, PROBLEMS)
        while time.time() < cut_at + 120 and how != "20 s":  # it may still write
            time.sleep(1)
        found = cluster.rows(STAGE, PROBLEMS)
        assert found["counted"] == first["counted"]
        if how != "20 s":  # its Ray has ended, and its engine with it
            assert not gone.run("pgrep", "-f", "raylet|EngineWorker|EngineCore", check=False).stdout
        record(f"worker node cut off, {how}", 1, found["asked"], found["counted"], took_s)


def test_the_head_is_cut_off_from_the_host_of_the_command(hosts, tmp_path, record):
    cluster = HostCluster(hosts, tmp_path, num_workers=3)
    [ours, *_] = cluster.workers
    with cluster.running(), cluster.psr_ray(*SEARCH, host=ours) as searching:
        cluster.await_rows("out", searching)
        rules = list(apart(ours, [cluster.head]))
        for rule in rules:
            ours.firewall("-A", *rule)
        cut_at = time.time()
        time.sleep(20)
        for rule in rules:
            ours.firewall("-D", *rule)
        assert searching.wait(400) == 0, cluster.log
        found = cluster.rows(STAGE, PROBLEMS)
        took_s = time.time() - cut_at
        fault = "head cut off from the command's host, 20 s"
        record(fault, 1, found["asked"], found["counted"], took_s)


def test_two_packets_of_a_hundred_are_lost(hosts, tmp_path, record):
    cluster = HostCluster(hosts, tmp_path)
    lost = ("-m", "statistic", "--mode", "random", "--probability", "0.02", "-j", "DROP")
    for host in (cluster.storage, cluster.head, *cluster.workers):
        host.firewall("-A", "INPUT", "-i", "eth0", *lost)
    began = time.time()
    with cluster.running(), cluster.psr_ray(*SEARCH) as searching:
        assert searching.wait(600) == 0, cluster.log
        found = cluster.rows(STAGE, PROBLEMS)
        fault = "2 % of all packets lost (the whole search)"
        record(fault, 1, found["asked"], found["counted"], time.time() - began)


@pytest.mark.parametrize("stage", STAGES)
def test_the_storage_is_out_of_reach_for_a_minute(hosts, tmp_path, record, stage):
    cluster = HostCluster(hosts, tmp_path)
    port = ("INPUT", "-p", "tcp", "--dport", str(PORT), "-j", "DROP")
    with cluster.running(), cluster.psr_ray(*run()) as running:
        while not cluster.objects(f"runs/smoke/{stage}/"):
            assert running.poll() is None, cluster.log
            time.sleep(1)
        cluster.storage.firewall("-A", *port)
        time.sleep(60)
        cluster.storage.firewall("-D", *port)
        back_at = time.time()
        assert running.wait(300) == 0, cluster.log
        took_s = time.time() - back_at
        fault = f"storage out of reach for a minute, {stage}"
        record(fault, 1, *cluster.items("smoke"), took_s)
