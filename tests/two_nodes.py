"""A search on a cluster of a head without engines and a worker node that goes (test_faults.py)."""

import sys
import threading
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from actors.stream import run_rows
from psr_ray.config.file import load_config
from psr_ray.progress import ProgressWriter
from psr_ray.shards import finished_ids

folder, model = Path(sys.argv[1]), sys.argv[2]
settings = ("engine.max_rows_in_flight=8", "engine.rows_per_shard=4", "search.max_steps=3")
config = load_config("configs/smoke.yaml", settings)
here = {"node_ip_address": "127.0.0.1"}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **here})
worker = cluster.add_node(num_cpus=2, **here)
ray.init(address=cluster.address)
when = []


def swap():
    """Take the node with the engine away once a few searches are finished; give another."""
    while len(finished_ids(folder / "search")) < 4:
        time.sleep(0.1)
    cluster.remove_node(worker, allow_graceful=False)
    when.append(time.time())
    time.sleep(2)
    cluster.add_node(num_cpus=2, **here)


threading.Thread(target=swap, daemon=True).start()
problems = [folder / "problems.parquet"]
run_rows(problems, folder, model, config, ProgressWriter(folder, "search", "rows"))
assert when, "the search ended before its node was taken away"
print(time.time() - when[0])
ray.shutdown()
cluster.shutdown()
