"""A Ray cluster on test hosts: a head without engines, workers of one core, an S3 server beside them."""

import contextlib
import json
import shlex
import time

from conftest import ROOT
from stores import BUCKET, MAKE_BUCKET, environment

PORT = 5000
ROWS = """
import json, os, sys
from psr_ray.storage.locations import location
from psr_ray.storage.files import read_table
from psr_ray.storage.shards import shards
folder = location(sys.argv[1])
counted = {path.name for path in shards(folder)}
asked = read_table(location(sys.argv[2]), ["id"])["id"].to_pylist()
found = {"asked": asked, "counted": [], "late": []}
for path in folder.glob("part-*.parquet"):
    ids = read_table(path, ["id"])["id"].to_pylist()
    found["counted" if path.name in counted else "late"] += ids
print(json.dumps(found), flush=True)
os._exit(0)  # a thread of the store's may still be about, and abort the process
"""


class HostCluster:
    """Up inside ``running``. ``storage`` and ``head`` are hosts, ``workers`` a list of them."""

    def __init__(self, hosts, folder, num_workers=2):
        self.hosts, self.folder = hosts, folder
        self.storage = hosts.add("storage")
        self.store = f"http://{self.storage.address}:{PORT}"
        variables = environment(self.store) | {
            "RAY_AUTH_MODE": "disabled",
            "PYTHONPATH": str(ROOT),
        }
        self.head = hosts.add("head", **variables)
        self.workers = [hosts.add(f"worker-{i}", **variables) for i in range(num_workers)]
        self.address = f"{self.head.address}:6379"

    @contextlib.contextmanager
    def running(self):
        with contextlib.ExitStack() as stack:
            server = ("python", "-m", "moto.server", "-H", self.storage.address, "-p", PORT)
            stack.enter_context(self.storage.running(*server, log=self.folder / "store.log"))
            start = ("ray", "start", "--block", "--disable-usage-stats")
            as_head = ("--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false")
            log = self.folder / "head.log"
            stack.enter_context(self.head.running(*start, *as_head, log=log))
            while not self.head.run("ss", "-ltnH", "sport = :6379").stdout:
                time.sleep(0.2)
            for worker in self.workers:
                log = self.folder / f"{worker.name}.log"
                joins = (*start, f"--address={self.address}", "--num-cpus=1")
                stack.enter_context(worker.running(*joins, log=log))
            self.head.run("python", "-c", MAKE_BUCKET)
            yield self

    def psr_ray(self, *arguments):
        """A psr-ray command on the head, while the block runs: its process; ``log`` has what it says."""
        command = f"cd {ROOT} && psr-ray {shlex.join(map(str, arguments))}"
        log = self.folder / "command.log"
        return self.head.running("bash", "-c", command, log=log, RAY_ADDRESS=self.address)

    def search(self, out, num, *settings):
        """A search on the cluster, while the block runs."""
        options = [part for setting in settings for part in ("--set", setting)]
        asked = ("--num", num, "--set", f"data.heldout.num={num}", "--show", 0, "--out", out)
        return self.psr_ray("search", "--config", "configs/smoke.yaml", *asked, *options)

    def objects(self, prefix):
        """How many objects of the bucket have names that begin so."""
        listed = f"{self.store}/{BUCKET}?prefix={prefix}"
        ask = f"import urllib.request as u; print(u.urlopen('{listed}').read())"
        return self.head.run("python", "-c", ask).stdout.count("<Key>")

    def rows(self, out, problems):
        """The ids of a search's rows: those of the file of problems, those that count, and those that
        came late."""
        return json.loads(self.head.run("python", "-c", ROWS, f"{out}/search", problems).stdout)

    @property
    def log(self):
        return (self.folder / "command.log").read_text()
