"""A Ray cluster on test hosts: a head without engines, workers of one core, an S3 server beside them."""

import contextlib
import json
import re
import shlex
import time

from conftest import ROOT
from stores import BUCKET, MAKE_BUCKET, environment

PORT, REDIS_PORT = 5000, 6380
# Packets, on the storage's host, which itself goes on reading.
TO_STORAGE = ("INPUT", "!", "-i", "lo", "-p", "tcp", "--dport", str(PORT))
# As the Dockerfile has it.
KEEPALIVE = {
    "RAY_grpc_client_keepalive_time_ms": "20000",
    "RAY_grpc_client_keepalive_timeout_ms": "30000",
}
# Settings of a search whose rows come in small portions, from two engines.
SMALL_SHARDS = (
    "engine.num_engines=[2,2]", "engine.max_rows_in_flight=4", "engine.rows_per_shard=4",
    "engine.layout=restart",
)  # fmt: skip
# Where a search in the bucket's folder `out` has its rows and its problems.
OUT = f"s3://{BUCKET}/out"
STAGE, PROBLEMS = "out/search", "out/problems.parquet"
# What a command says, in a test's folder.
LOG = "command.log"
RAY = ("ray", "start", "--block", "--disable-usage-stats")
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

ITEMS = """
import json, os, sys
from benchmarks.whole import expected_and_found
from psr_ray.storage.locations import location
print(json.dumps(expected_and_found(location(sys.argv[1]))), flush=True)
os._exit(0)  # as above
"""


def psr_ray(*arguments):
    """A psr-ray command, as a shell has it."""
    return f"cd {ROOT} && exec psr-ray {shlex.join(map(str, arguments))}"


def search(out, num, *settings):
    """Arguments of psr-ray for a search."""
    options = [part for setting in settings for part in ("--set", setting)]
    asked = ("--num", num, "--set", f"data.heldout.num={num}", "--show", 0, "--out", out)
    return ("search", "--config", "configs/smoke.yaml", *asked, *options)


def run(*settings, name="smoke"):
    """Arguments of psr-ray for the smoke config's run in the bucket's folder `runs`."""
    changed = (f"runs_dir=s3://{BUCKET}/runs", f"name={name}", *settings)
    options = [part for setting in changed for part in ("--set", setting)]
    return ("run", "--config", "configs/smoke.yaml", *options)


class HostCluster:
    """Up inside ``running``. ``storage`` and ``head`` are hosts, ``workers`` a list of them. With
    ``redis`` the head's control store is kept by a Redis on the storage's host. A worker has a core and
    ``num_gpus`` GPUs that Ray counts and nobody has, and a /dev/shm of size ``shm``. ``variables`` are
    in the environment of all that runs on its hosts."""

    def __init__(
        self, hosts, folder, num_workers=2, *, redis=False, num_gpus=0, shm="8g", **variables
    ):
        self.hosts, self.folder = hosts, folder
        self.num_gpus = num_gpus
        self.storage = hosts.add("storage")
        self.store = f"http://{self.storage.address}:{PORT}"
        self.redis = f"{self.storage.address}:{REDIS_PORT}" if redis else None
        paths = [ROOT / "tests" / "logical_gpus", ROOT] if num_gpus else [ROOT]
        usual = KEEPALIVE | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": ":".join(map(str, paths))}
        variables = environment(self.store) | usual | variables
        at_head = {} if self.redis is None else {"RAY_REDIS_ADDRESS": self.redis}
        self.head = hosts.add("head", **variables, **at_head)
        self.workers = [hosts.add(f"worker-{i}", shm, **variables) for i in range(num_workers)]
        self.address = f"{self.head.address}:6379"
        self.worker_processes = {}
        self.stack = contextlib.ExitStack()

    @contextlib.contextmanager
    def running(self, workers=None):
        """``workers`` are those that join at once; all where it is not given."""
        with self.stack:
            server = ("python", "-m", "moto.server", "-H", self.storage.address, "-p", PORT)
            self._start(self.storage, "store", *server)
            if self.redis is not None:
                listens = ("--bind", self.storage.address, "--port", REDIS_PORT)
                options = ("--protected-mode", "no", "--save", "", "--dir", "/tmp")
                self._start(self.storage, "redis", "redis-server", *listens, *options)
            self.start_head()
            for worker in self.workers if workers is None else workers:
                self.start_worker(worker)
            self.head.run("python", "-c", MAKE_BUCKET)
            yield self

    def start_head(self):
        """Ray on the head, and its job server on the head's loopback."""
        self._start(self.head, "head", *RAY, "--head", "--port=6379", "--num-cpus=0")
        for port in (6379, 8265):
            while not self.head.run("ss", "-ltnH", f"sport = :{port}").stdout:
                time.sleep(0.2)

    def start_worker(self, worker, **options):
        """Ray on a worker, whose process in ``worker_processes`` ends with it."""
        has = (f"--num-cpus={1 + self.num_gpus}", f"--num-gpus={self.num_gpus}")
        joins = (*RAY, f"--address={self.address}", *has)
        self.worker_processes[worker.name] = self._start(worker, worker.name, *joins, **options)

    def _start(self, host, name, *command, **options):
        log = self.folder / f"{name}.log"
        return self.stack.enter_context(host.running(*command, log=log, **options))

    def psr_ray(self, *arguments, host=None, log=LOG, **variables):
        """A psr-ray command on the head, or on another host, while the block runs: its process; a file
        of this machine has what it says."""
        log, command = self.folder / log, psr_ray(*arguments)
        host = host or self.head
        variables |= {"RAY_ADDRESS": self.address}
        return host.running("bash", "-c", command, log=log, **variables)

    def await_nodes(self, num):
        """Until so many nodes have joined."""
        for _ in range(120):
            if self.head.run("ray", "status", check=False).stdout.count(" node_") >= num:
                return
            time.sleep(0.5)
        raise AssertionError(self.head.run("ray", "status", check=False).stdout)

    def await_rows(self, out, process):
        """Until a search by a process has two shards of rows; it must go on meanwhile."""
        while self.objects(f"{out}/search/part-") < 2:
            assert process.poll() is None, self.log
            time.sleep(1)

    def objects(self, prefix):
        """How many objects of the bucket have names that begin so."""
        return len(self.names(prefix))

    def names(self, prefix):
        """Names of the objects of the bucket that begin so."""
        listed = f"{self.store}/{BUCKET}?prefix={prefix}"
        ask = f"import urllib.request as u; print(u.urlopen('{listed}').read())"
        return re.findall("<Key>(.*?)</Key>", self.storage.run("python", "-c", ask).stdout)

    def rows(self, stage, problems):
        """The ids of a stage's rows: those of the file of problems, those that count, and those that
        came late."""
        names = [f"s3://{BUCKET}/{name}" for name in (stage, problems)]
        return json.loads(self.head.run("python", "-c", ROWS, *names).stdout)

    def items(self, name):
        """(stage, task, id) of all rows and steps that a smoke run should have, and has."""
        said = self.head.run("python", "-c", ITEMS, f"s3://{BUCKET}/runs/{name}").stdout
        return [[tuple(item) for item in items] for items in json.loads(said)]

    def json(self, name):
        """A JSON file of the bucket."""
        print_it = "import sys, fsspec; print(fsspec.open(sys.argv[1]).open().read().decode())"
        return json.loads(self.head.run("python", "-c", print_it, f"s3://{BUCKET}/{name}").stdout)

    @property
    def log(self):
        return (self.folder / LOG).read_text()
