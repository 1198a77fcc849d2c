"""A real head node with token authentication, on loopback; ended by its own process."""

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

import psutil

RAY = str(Path(sys.executable).with_name("ray"))


class Head:
    """`ray start --head`; what runs with ``environment`` may talk to it. ``variables`` are its own."""

    def __init__(self, log, **variables):
        ports = [free_port() for _ in range(4)]  # another Ray on this machine has the usual ones
        self.folder = f"/tmp/psr-{ports[0]}"
        self.address = f"http://127.0.0.1:{ports[1]}"
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        self.environment = os.environ | token | {"RAY_ADDRESS": self.address}
        command = [
            RAY, "start", "--head", "--block", "--num-cpus=6", "--node-ip-address=127.0.0.1",
            f"--port={ports[0]}", "--dashboard-host=127.0.0.1", f"--dashboard-port={ports[1]}",
            f"--dashboard-agent-listen-port={ports[2]}", f"--dashboard-agent-grpc-port={ports[3]}",
            "--include-dashboard=true", "--disable-usage-stats", f"--temp-dir={self.folder}",
        ]  # fmt: skip
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command, env=os.environ | token | variables, stdout=file, stderr=file
            )
        for _ in range(120):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", ports[1])):
                break
            time.sleep(0.5)

    def ray(self, *arguments, **settings):
        """A ``ray`` command against this cluster."""
        settings = {"env": self.environment, "timeout": 400} | settings
        return subprocess.run(
            [RAY, *arguments], capture_output=True, text=True, check=False, **settings
        )

    def get(self, path):
        """What the dashboard answers."""
        token = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        request = urllib.request.Request(self.address + path, headers=token)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def at_work(self, *marks):
        """Processes of this cluster whose command lines hold one of the marks."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        found = []
        for process in family:
            with contextlib.suppress(psutil.Error):
                if any(mark in " ".join(process.cmdline()) for mark in marks):
                    found.append(process)
        return found

    def end(self):
        self.process.terminate()
        self.process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
