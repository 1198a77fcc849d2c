"""The head of a cluster dies and comes back: what survives, what the same command or job does."""

import shutil
import time

import pytest
from host_cluster import OUT, PROBLEMS, SMALL_SHARDS, STAGE, HostCluster, psr_ray, search

pytestmark = [
    pytest.mark.slow,
    pytest.mark.faults,
    pytest.mark.long,
]
with_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="needs redis-server (Debian: redis-server)"
)
NUM = 96
SEARCH = search(OUT, NUM, *SMALL_SHARDS)
COMMAND = ("bash", "-c", psr_ray(*SEARCH))
# Ray's workers give up a head that does not answer after a minute.
GIVING_UP_S = 150


@pytest.mark.parametrize("where", ["head", "worker"])
def test_without_redis_all_ends_and_the_same_command_goes_on(hosts, tmp_path, record, where):
    cluster = HostCluster(hosts, tmp_path, num_workers=2 if where == "head" else 3)
    host = cluster.head if where == "head" else cluster.workers[2]
    with cluster.running():
        with cluster.psr_ray(*SEARCH, host=host) as searching:
            cluster.await_rows("out", searching)
            cluster.head.off()
            assert searching.wait(GIVING_UP_S) != 0
        said = cluster.log
        kept = cluster.objects("out/search/part-")
        for process in cluster.worker_processes.values():
            assert process.wait(GIVING_UP_S) is not None
        for worker in cluster.workers:
            assert not worker.left("EngineWorker", "EngineCore")
        cluster.head.start()
        back_at = time.time()
        cluster.start_head()
        for worker in cluster.workers:
            cluster.start_worker(worker)
        with cluster.psr_ray(*SEARCH, host=host) as searching:
            assert searching.wait(300) == 0, cluster.log
        found = cluster.rows(STAGE, PROBLEMS)
        took_s = time.time() - back_at
        assert kept
        if where == "worker":
            assert "Failed to connect to GCS" in said
        fault = f"head died, no Redis: same command, on the {where}"
        record(fault, 1, found["asked"], found["counted"], took_s)


@with_redis
def test_with_redis_a_command_on_another_host_does_not_notice(hosts, tmp_path, record):
    cluster = HostCluster(hosts, tmp_path, num_workers=3, redis=True)
    with cluster.running(), cluster.psr_ray(*SEARCH, host=cluster.workers[0]) as searching:
        cluster.await_rows("out", searching)
        cluster.head.off()
        time.sleep(10)
        cluster.head.start()
        back_at = time.time()
        cluster.start_head()
        assert searching.wait(300) == 0, cluster.log
        found = cluster.rows(STAGE, PROBLEMS)
        took_s = time.time() - back_at
        for process in cluster.worker_processes.values():
            assert process.poll() is None
        fault = "head died, Redis: command on a worker node goes on"
        record(fault, 1, found["asked"], found["counted"], took_s)


@pytest.mark.parametrize("redis", [pytest.param(True, marks=with_redis), False])
def test_a_job_ends_and_the_same_job_goes_on(hosts, tmp_path, record, redis):
    cluster = HostCluster(hosts, tmp_path, redis=redis)

    def job(*arguments, **options):
        return cluster.head.run("ray", "job", *arguments, **options)

    def submit(name, *options, **settings):
        return job("submit", "--submission-id", name, *options, "--", *COMMAND, **settings)

    with cluster.running():
        submit("a", "--no-wait")
        while cluster.objects("out/search/part-") < 2:
            assert "RUNNING" in (said := job("status", "a").stdout) or "PENDING" in said
            time.sleep(1)
        kept = cluster.names("out/search/part-")
        cluster.head.off()
        if not redis:
            for process in cluster.worker_processes.values():
                process.wait(GIVING_UP_S)
        cluster.head.start()
        back_at = time.time()
        cluster.start_head()
        if not redis:
            for worker in cluster.workers:
                cluster.start_worker(worker)
        submit("b", timeout=400)  # Ray calls the first one RUNNING for some minutes, then FAILED
        found = cluster.rows(STAGE, PROBLEMS)
        took_s = time.time() - back_at
        counted = cluster.json("out/search/complete.json")["shards"]
        assert {name.rpartition("/")[2] for name in kept} <= set(counted)
        fault = f"head died, {'' if redis else 'no '}Redis: same job again"
        record(fault, 1, found["asked"], found["counted"], took_s)
