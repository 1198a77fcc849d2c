"""A real cluster of one node with token authentication, on loopback, for tests."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.autoscaler._private.util import prepare_config

RAY = str(Path(sys.executable).with_name("ray"))


class Head:
    """`ray start --head`, ended by ``end``. What runs with ``environment`` may talk to it.

    ``variables`` are those of the node alone; ``log`` takes its output.
    """

    def __init__(
        self, log: Path, autoscaling: dict[str, Any] | None = None, **variables: str
    ) -> None:
        """With ``autoscaling``, a cluster file's content, the head runs no work; its nodes are processes
        of this machine, started by Ray's fake provider."""
        ports = [free_port() for _ in range(5)]  # another Ray on this machine has the usual ones
        self.folder = Path(f"/tmp/psr-{ports[0]}")
        self.address = f"127.0.0.1:{ports[0]}"
        self.dashboard = f"http://127.0.0.1:{ports[1]}"
        self.metrics = f"http://127.0.0.1:{ports[4]}/metrics"
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        # all its ports on loopback, as on macOS (see psr_ray.cluster.connect.start_local)
        local = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        self.environment = dict(os.environ) | token | local
        self.folder.mkdir(parents=True)
        grown = []
        if autoscaling is not None:
            file = self.folder / "autoscaling.json"
            file.write_text(json.dumps(faked(autoscaling, self.address)))
            grown = [f"--autoscaling-config={file}"]
            # the variables that name the head are its own
            variables |= {
                "RAY_FAKE_CLUSTER": "1",
                "RAY_enable_autoscaler_v2": "1",
                "AUTOSCALER_UPDATE_INTERVAL_S": "1",
                "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            }
        command = [
            RAY, "start", "--head", "--block", f"--num-cpus={0 if grown else 6}", *grown,
            "--node-ip-address=127.0.0.1", f"--port={ports[0]}",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={ports[1]}",
            f"--metrics-export-port={ports[4]}", f"--dashboard-agent-listen-port={ports[2]}",
            f"--dashboard-agent-grpc-port={ports[3]}",
            "--include-dashboard=true", "--disable-usage-stats", f"--temp-dir={self.folder}",
        ]  # fmt: skip
        with log.open("w") as out:
            self.process = subprocess.Popen(
                command, env=self.environment | variables, stdout=out, stderr=out
            )
        for _ in range(120):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", ports[1])):
                break
            time.sleep(0.5)

    def job(self, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        """A ``ray job`` command against this cluster."""
        environment = self.environment | {"RAY_ADDRESS": self.dashboard}
        options: Any = {"env": environment, "timeout": 400} | settings
        return subprocess.run(
            [RAY, "job", *arguments], capture_output=True, text=True, check=False, **options
        )

    def get(self, path: str) -> bytes:
        """The dashboard's answer."""
        token = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        request = urllib.request.Request(self.dashboard + path, headers=token)
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: bytes = answer.read()
        return found

    def num_nodes(self) -> int:
        """How many of its nodes are alive."""
        nodes = json.loads(self.get("/api/v0/nodes"))["data"]["result"]["result"]
        return sum(node["state"] == "ALIVE" for node in nodes)

    def processes(self, *marks: str) -> list[psutil.Process]:
        """The node's processes whose command lines hold one of the marks."""
        return children(self.process.pid, *marks)

    def end(self) -> None:
        """End it and all that runs on it."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        _, left = psutil.wait_procs(family, timeout=10)
        for process in left:  # workers that wait for what ended before them
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)


def faked(cluster: dict[str, Any], address: str) -> dict[str, Any]:
    """A cluster file whose nodes are processes of this machine. (``AutoscalingCluster`` of Ray 2.60 does
    the same, but its wheel lacks a file of it, and it ends every Ray on the machine.)"""
    types = dict(cluster["available_node_types"])
    types["ray.head.default"] = types.pop(cluster["head_node_type"])  # the provider's name for it
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
        "head_node_id": FAKE_HEAD_NODE_ID,
        "gcs_address": address,
    }
    changes = {"provider": provider, "head_node_type": "ray.head.default", "docker": {}}
    changes |= {"file_mounts": {}, "setup_commands": [], "available_node_types": types}
    changes["cluster_synced_files"] = []
    prepared: dict[str, Any] = prepare_config(cluster | changes)
    return prepared


def children(pid: int, *marks: str) -> list[psutil.Process]:
    """A process's descendants whose command lines hold one of the marks."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(mark in " ".join(process.cmdline()) for mark in marks):
                found.append(process)
    return found


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
    return port
