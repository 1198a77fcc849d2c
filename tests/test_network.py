"""A network that fails between the hosts of a cluster: no row is lost, none counts twice."""

import time

import pytest
from host_cluster import HostCluster
from stores import BUCKET

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.long]
OUT = f"s3://{BUCKET}/out"
NUM = 120
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
        while len(cluster.rows(OUT)["counted"]) < 8:
            assert search.poll() is None, cluster.log()
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
            assert time.time() < cut_at + 400, cluster.log()
            time.sleep(1)
        took_s = time.time() - cut_at
        assert search.returncode == 0, cluster.log()
        first = cluster.rows(OUT)
        while time.time() < cut_at + 120 and how != "20 s":  # it may still write
            time.sleep(1)
        found = cluster.rows(OUT)
        print(took_s, len(found["counted"]), len(found["late"]), cluster.log()[-1500:])
        assert found["counted"] == first["counted"]
        record(f"worker node cut off, {how}", 1, found["asked"], found["counted"], took_s)
