"""A real S3 server (moto) on loopback, for tests of runs in an object store."""

import contextlib
import os
import socket
import subprocess
import sys
import time

from benchmarks.heads import free_port

BUCKET = "psr-ray"


# What a process runs that makes the bucket.
MAKE_BUCKET = f"import s3fs; s3fs.S3FileSystem().mkdir('{BUCKET}')"


def environment(url):
    """What lets a process use the store at a URL."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


class Store:
    """``moto_server``, ended by ``end``; ``environment`` lets a process use it."""

    def __init__(self, log):
        port = free_port()
        self.environment = environment(f"http://127.0.0.1:{port}")
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file)
        for _ in range(120):
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=1),
            ):
                break
            time.sleep(0.25)

    def end(self):
        self.process.terminate()
        self.process.wait(30)

    @contextlib.contextmanager
    def used(self):
        """Inside, this process and those it starts use it."""
        from s3fs import S3FileSystem
        from upath import UPath

        before = dict(os.environ)
        os.environ.update(self.environment)
        # one that was made before keeps the credentials it was made with, or that there were none
        S3FileSystem.clear_instance_cache()
        try:
            UPath(f"s3://{BUCKET}/x").fs.mkdir(BUCKET)
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
            S3FileSystem.clear_instance_cache()
