"""A network that fails between the hosts of a cluster: no row is lost, none counts twice."""

import time

import pytest
from host_cluster import PORT, HostCluster
from stores import BUCKET

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.long]
OUT = f"s3://{BUCKET}/out"
NUM = 96
SETTINGS = (
    "engine.num_engines=[2,2]", "engine.max_rows_in_flight=4", "engine.rows_per_shard=4",
    "engine.layout=restart",
)  # fmt: skip


def apart(host, others, *, one_way=False):
    """iptables rules that keep a host from others, not from the storage."""
    for other in others:
        yield ("OUTPUT", "-d", other.address, "-j", "DROP")
        if not one_way:
            yield ("INPUT", "-s", other.address, "-j", "DROP")


@pytest.mark.parametrize("how", ["20 s", "for ever", "one way"])
def test_a_worker_node_is_cut_off(hosts, tmp_path, record, how):
    cluster = HostCluster(hosts, tmp_path)
    with cluster.running(), cluster.search(OUT, NUM, *SETTINGS) as search:
        while cluster.objects("out/search/part-") < 2:
            assert search.poll() is None, cluster.log
            time.sleep(1)
        gone = cluster.workers[1]
        rules = list(apart(gone, [cluster.head, cluster.workers[0]], one_way=how == "one way"))
        for rule in rules:
            gone.firewall("-A", *rule)
        cut_at = time.time()
        if how == "20 s":
            time.sleep(20)
            for rule in rules:
                gone.firewall("-D", *rule)
        while search.poll() is None:
            assert time.time() < cut_at + 400, cluster.log
            time.sleep(1)
        took_s = time.time() - cut_at
        assert search.returncode == 0, cluster.log
        first = cluster.rows(OUT, f"{OUT}/problems.parquet")
        while time.time() < cut_at + 120 and how != "20 s":  # it may still write
            time.sleep(1)
        found = cluster.rows(OUT, f"{OUT}/problems.parquet")
        assert found["counted"] == first["counted"]
        record(f"worker node cut off, {how}", 1, found["asked"], found["counted"], took_s)


@pytest.mark.parametrize("stage", ["evaluate-M0", "sft", "search-1", "train-1"])
def test_the_storage_is_out_of_reach_for_a_minute(hosts, tmp_path, record, stage):
    cluster = HostCluster(hosts, tmp_path)
    port = ("INPUT", "-p", "tcp", "--dport", str(PORT), "-j", "DROP")
    run = ("run", "--config", "configs/smoke.yaml", "--set", f"runs_dir=s3://{BUCKET}/runs")
    with cluster.running(), cluster.psr_ray(*run) as running:
        while not cluster.objects(f"runs/smoke/{stage}/"):
            assert running.poll() is None, cluster.log
            time.sleep(1)
        cluster.storage.firewall("-A", *port)
        time.sleep(60)
        cluster.storage.firewall("-D", *port)
        back_at = time.time()
        assert running.wait(300) == 0, cluster.log
        took_s, smoke = time.time() - back_at, f"s3://{BUCKET}/runs/smoke"
        found = cluster.rows(f"{smoke}/search-1", f"{smoke}/data/search-1.parquet")
        assert len(found["counted"]) == 12
        fault = f"storage out of reach for a minute, {stage}"
        record(fault, 1, found["asked"], found["counted"], took_s)
