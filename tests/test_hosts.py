"""`ray up cluster.yaml` to `ray down` over ssh, on hosts that come and go, behind a firewall."""

import os
import re
import time
from functools import partial

import pytest
import yaml
from conftest import ROOT
from host_provider import Cloud
from hosts import HOME, NETWORK, UID
from stores import BUCKET, MAKE_BUCKET, environment

pytestmark = pytest.mark.slow
STORE_PORT = 5000
RUNS = f"s3://{BUCKET}/runs"
PORTS = re.compile(r"^\| (\d+)(?:-(\d+))? \|", re.MULTILINE)  # docs/cluster.md
LISTENING = re.compile(r"^LISTEN\s+\d+\s+\d+\s+(\S+):(\d+)\s", re.MULTILINE)
TOKEN = {"RAY_AUTH_MODE": "token"}


def put(host, name, content):
    """A file in the user's home."""
    path = host.path(HOME) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o600)
    for each in (path, path.parent):
        os.chown(each, UID, UID)


def listed_ports():
    """The ranges of docs/cluster.md."""
    found = PORTS.findall((ROOT / "docs" / "cluster.md").read_text())
    return [range(int(first), int(last or first) + 1) for first, last in found]


def close_ports(host, outside=()):
    """A firewall that lets in ssh, and from the cluster what docs/cluster.md lists."""
    host.firewall("-P", "INPUT", "DROP")
    host.firewall("-A", "INPUT", "-i", "lo", "-j", "ACCEPT")
    host.firewall("-A", "INPUT", "-m", "state", "--state", "ESTABLISHED,RELATED", "-j", "ACCEPT")
    host.firewall("-A", "INPUT", "-p", "tcp", "--dport", "22", "-j", "ACCEPT")
    for other in outside:
        host.firewall("-A", "INPUT", "-s", other.address, "-j", "DROP")
    for ports in listed_ports():
        to_these = ("--dport", f"{ports[0]}:{ports[-1]}")
        from_cluster = ("-s", f"{NETWORK}.0/24", "-p", "tcp", *to_these)
        host.firewall("-A", "INPUT", *from_cluster, "-j", "ACCEPT")


def open_ports(host):
    """The ports on which the host can be reached."""
    shown = host.run("ss", "-ltn").stdout
    return {int(port) for address, port in LISTENING.findall(shown) if "127.0.0." not in address}


def on_hosts(cloud):
    """cluster.yaml for test hosts. Replaced: the provider and what it is asked for, numbers of CPUs and
    nodes. Left out: the container, and what prepares the machine (its SSDs, the registry)."""
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    config |= {"docker": {}, "initialization_commands": []}
    config["provider"] = {
        "type": "external", "module": "host_provider.HostProvider", "socket": cloud.socket,
    }  # fmt: skip
    # what Ray adds for the clouds that it knows
    config |= {"cluster_synced_files": [], "file_mounts_sync_continuously": False}
    config |= {"rsync_exclude": [], "rsync_filter": []}
    config["auth"] = {"ssh_user": "ray", "ssh_private_key": "~/.ssh/key"}
    for name, kind in config["available_node_types"].items():
        kind["node_config"] = {}
        if name != config["head_node_type"]:
            kind["resources"], kind["max_workers"] = {"CPU": 1}, 2 if "7b" in name else 0
            kind["idle_timeout_s"] = 20
    return config


def furnish(laptop, hosts, cloud):
    """What `ray up` needs: the key, a token made as docs/cluster.md says, the cluster file."""
    put(laptop, ".ssh/key", hosts.key.read_text())
    page = (ROOT / "docs" / "cluster.md").read_text()
    [make_token] = re.findall("^mkdir .*token_hex.*$", page, re.MULTILINE)
    laptop.run("bash", "-c", make_token)
    put(laptop, "cluster.yaml", yaml.safe_dump(on_hosts(cloud)))


def submit(laptop, cloud, tmp_path, num_iterations):
    """Submit a run from outside, through the dashboard's tunnel: what its job said, and the ports on
    which each node could be reached meanwhile. Training is on other nodes than the engine in the long
    form, on one of its own in the short one."""
    layout = "restart" if num_iterations else "colocated"
    job = (
        f"cd {ROOT} && ray job submit --submission-id one --working-dir . "
        "--runtime-env runtime_env.yaml "
        f"-- python jobs/run.py --config configs/smoke.yaml --set runs_dir={RUNS} "
        f"--set num_iterations={num_iterations} --set engine.layout={layout} "
        "--set data.ift.num=16 --set data.eft.num=32 --set data.heldout.num=8"
    )
    asks = TOKEN | {"RAY_ADDRESS": "http://127.0.0.1:8265"}
    found, log = dict[str, set[int]](), tmp_path / "job.log"
    with laptop.running("ray", "dashboard", "cluster.yaml", log=tmp_path / "tunnel.log"):
        while not laptop.run("ss", "-ltnH", "sport = :8265").stdout:
            time.sleep(0.5)
        with laptop.running("bash", "-c", job, log=log, **asks) as submitted:
            while submitted.poll() is None:
                for name, (host, _) in list(cloud.nodes.items()):
                    found[name] = found.get(name, set()) | open_ports(host)
                time.sleep(2)
        assert submitted.returncode == 0, log.read_text()[-6000:]
        said = laptop.run("ray", "job", "logs", "-f", "one", **asks).stdout
        head, _ = cloud.nodes["head-0"]
        for port in (6379, min(port for port in found["head-0"] if port > 10000)):
            assert not reaches(laptop, head, port)
            assert reaches(head, head, port)
    assert "held: " in said
    return log.read_text(), found


def reaches(host, other, port):
    """Whether a host gets a connection to another's port."""
    connect = f"import socket; socket.create_connection(('{other.address}', {port}), 3)"
    return host.run("python", "-c", connect, check=False).returncode == 0


@pytest.mark.faults
@pytest.mark.long
def test_nodes_come_on_demand_once_spot_nodes_are_given_up(hosts, tmp_path, request):
    """Ray does not do so by itself: docs/upstream/ray-autoscaler-launch-failures.md."""
    shared = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "AUTOSCALER_UPDATE_INTERVAL_S": "2"}
    laptop = hosts.add("laptop", **shared)
    cloud = Cloud(hosts, full=["gpu_7b_spot"], **shared)
    request.addfinalizer(cloud.end)
    furnish(laptop, hosts, cloud)
    work = "import ray; ray.init(); print(ray.get(ray.remote(lambda: 'did it').remote()))"
    do = ("ray", "exec", "cluster.yaml", f'python -c "{work}"')
    laptop.run("ray", "up", "--yes", "cluster.yaml", timeout=300)
    with laptop.running(*do, log=tmp_path / "work.log") as working:
        while len(cloud.refused) < 3:
            assert working.poll() is None, (tmp_path / "work.log").read_text()
            time.sleep(1)
        assert cloud.started == ["head"]
        config = on_hosts(cloud)
        config["available_node_types"]["gpu_7b_spot"]["max_workers"] = 0
        put(laptop, "cluster.yaml", yaml.safe_dump(config))
        laptop.run("ray", "up", "--yes", "--no-restart", "cluster.yaml", timeout=300)
        assert working.wait(200) == 0
    assert "did it" in (tmp_path / "work.log").read_text()
    assert cloud.started == ["head", "gpu_7b"]
    laptop.run("ray", "down", "--yes", "cluster.yaml")


@pytest.mark.parametrize(
    "num_iterations", [0, pytest.param(1, marks=[pytest.mark.faults, pytest.mark.long])]
)
def test_a_cluster_from_up_to_down(hosts, tmp_path, request, num_iterations):
    storage = hosts.add("storage")
    shared = environment(f"http://{storage.address}:{STORE_PORT}") | {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "AUTOSCALER_UPDATE_INTERVAL_S": "2",
    }
    laptop = hosts.add("laptop", **shared, TZ="Asia/Tokyo")
    cloud = Cloud(hosts, partial(close_ports, outside=(storage, laptop)), **shared)
    request.addfinalizer(cloud.end)
    furnish(laptop, hosts, cloud)
    server = ("python", "-m", "moto.server", "-H", storage.address, "-p", STORE_PORT)
    with storage.running(*server, log=tmp_path / "store.log"):
        laptop.run("python", "-c", MAKE_BUCKET)
        laptop.run("ray", "up", "--yes", "cluster.yaml", timeout=300)
        assert cloud.started == ["head"]
        said, found = submit(laptop, cloud, tmp_path, num_iterations)
        assert "Job 'one' succeeded" in said
        status = laptop.run("psr-ray", "status", "smoke", "--runs-dir", RUNS).stdout
        assert "complete" in status.splitlines()
        # one for the engine and one for the training workers: no other kind
        assert set(cloud.started[1:]) == {"gpu_7b_spot"}
        for name, ports in found.items():
            unlisted = {port for port in ports if not any(port in each for each in listed_ports())}
            assert not unlisted, name
        assert {name for name, ports in found.items() if 6379 in ports} == {"head-0"}
        everywhere = set().union(*found.values())
        for each in listed_ports():
            assert everywhere & set(each), f"nobody listens on {each}"
        for _ in range(90):  # idle nodes go
            if len(cloud.machines({})) == 1:
                break
            time.sleep(1)
        assert cloud.machines({}) == ["head-0"]
        shown = laptop.run("ray", "exec", "cluster.yaml", "ray status").stdout
        assert "(no pending nodes)" in shown
        laptop.run("ray", "down", "--yes", "cluster.yaml")
        assert not cloud.machines({})
