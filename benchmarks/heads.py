"""A real cluster of one node with token authentication, on loopback, for tests and the soak."""

from __future__ import annotations

import contextlib
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

RAY = str(Path(sys.executable).with_name("ray"))


class Head:
    """`ray start --head`, ended by ``end``. What runs with ``environment`` may talk to it.

    ``variables`` are those of the node alone; ``log`` takes its output.
    """

    def __init__(self, log: Path, **variables: str) -> None:
        ports = [free_port() for _ in range(4)]  # another Ray on this machine has the usual ones
        self.folder = Path(f"/tmp/psr-{ports[0]}")
        self.address = f"127.0.0.1:{ports[0]}"
        self.dashboard = f"http://127.0.0.1:{ports[1]}"
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        # all its ports on loopback, as on macOS (see psr_ray.cluster.start_local)
        local = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        self.environment = dict(os.environ) | token | local
        command = [
            RAY, "start", "--head", "--block", "--num-cpus=6", "--node-ip-address=127.0.0.1",
            f"--port={ports[0]}", "--dashboard-host=127.0.0.1", f"--dashboard-port={ports[1]}",
            f"--dashboard-agent-listen-port={ports[2]}", f"--dashboard-agent-grpc-port={ports[3]}",
            "--include-dashboard=true", "--disable-usage-stats", f"--temp-dir={self.folder}",
        ]  # fmt: skip
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command, env=self.environment | variables, stdout=file, stderr=file
            )
        for _ in range(120):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", ports[1])):
                break
            time.sleep(0.5)

    def job(self, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        """A ``ray job`` command against this cluster."""
        environment = self.environment | {"RAY_ADDRESS": self.dashboard}
        settings = {"env": environment, "timeout": 400} | settings
        return subprocess.run(
            [RAY, "job", *arguments], capture_output=True, text=True, check=False, **settings
        )

    def get(self, path: str) -> bytes:
        """What the dashboard answers."""
        token = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        request = urllib.request.Request(self.dashboard + path, headers=token)
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: bytes = answer.read()
        return found

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
