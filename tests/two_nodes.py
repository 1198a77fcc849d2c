"""A search on a cluster of a head without engines and a worker node that goes (test_faults.py)."""

import os
import sys
import time
from pathlib import Path

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # ports on loopback (psr_ray.cluster.connect)

import ray
from ray.cluster_utils import Cluster

from actors.stream import run_rows
from psr_ray.config.file import load_config
from psr_ray.storage.shards import finished_ids
from psr_ray.telemetry.progress import ProgressWriter

folder, model = Path(sys.argv[1]), sys.argv[2]
settings = ("engine.max_rows_in_flight=8", "engine.rows_per_shard=4", "search.max_steps=3")
config = load_config("configs/smoke.yaml", settings)
here = {"node_ip_address": "127.0.0.1"}
quick = {"health_check_period_ms": 1000, "health_check_timeout_ms": 2000}  # a minute by default
cluster = Cluster(
    initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": quick, **here}
)
worker = cluster.add_node(num_cpus=2, **here)
ray.init(address=cluster.address, _node_ip_address="127.0.0.1")

# the driver is on the head: on a node that goes, the pipeline would start another (actors/pipeline.py)
head = {"node:__internal_head__": 0.001}
search = ray.remote(num_cpus=0, resources=head)(run_rows)
progress = ProgressWriter(folder, "search", "rows")
pending = search.remote([folder / "problems.parquet"], folder, model, config, progress)
while len(finished_ids(folder / "search")) < 4:
    assert not ray.wait([pending], timeout=0.1)[0], ray.get(pending)
cluster.remove_node(worker, allow_graceful=False)
gone_at = time.time()
time.sleep(2)
assert not ray.wait([pending], timeout=0)[0], "the search ended before its node was taken away"
cluster.add_node(num_cpus=2, **here)
ray.get(pending)
print(f"recovered in {time.time() - gone_at:.1f} s", flush=True)
ray.shutdown()
cluster.shutdown()
