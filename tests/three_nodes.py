"""One search on one node, and on a cluster that grows from one to three meanwhile (test_growth.py)."""

import json
import os
import sys
import time
from pathlib import Path

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # ports on loopback (psr_ray.cluster.connect)

import ray
from ray.cluster_utils import Cluster

from actors import stream
from psr_ray.config.file import load_config
from psr_ray.storage.shards import finished_ids, read_rows, shards
from psr_ray.telemetry.progress import ProgressWriter

folder, model = Path(sys.argv[1]), sys.argv[2]
settings = ("engine.seeded_sampling=true", "engine.max_rows_in_flight=4", "engine.rows_per_shard=4")
config = load_config("configs/smoke.yaml", (*settings, "engine.layout=restart"))  # a core an engine
here = {"node_ip_address": "127.0.0.1"}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **here})
cluster.add_node(num_cpus=1, **here)
ray.init(address=cluster.address, _node_ip_address="127.0.0.1")


def search(name, most):
    """A search with one to ``most`` engines, in a process of its own."""
    out = folder / name
    engines = config.engine.model_copy(update={"num_engines": (1, most)})
    changed = config.model_copy(update={"engine": engines})
    progress = ProgressWriter(out, "search", "rows")
    return out, ray.remote(num_cpus=0)(stream.run_rows).remote(
        [folder / "problems.parquet"], out, model, changed, progress
    )


def rows(out):
    return {
        row["id"]: [step["candidates"] for step in row["steps"]]
        for row in read_rows(shards(out / "search"))
    }


started = time.time()
one, pending = search("one", 1)
ray.get(pending)
alone_s = time.time() - started

three, pending = search("three", 3)
while not finished_ids(three / "search"):
    assert not ray.wait([pending], timeout=0.1)[0], ray.get(pending)
added = time.time()
for _ in range(2):
    cluster.add_node(num_cpus=1, **here)
seen = {}
while not ray.wait([pending], timeout=0.2)[0]:
    for path in (three / "engines").glob("engine-*.json"):
        mark = json.loads(path.read_text())
        seen[path.name] = (mark["node"], mark["ready_at"], mark["loading_s"])
ray.get(pending)
joined = sorted((ready - added, loading) for _, ready, loading in seen.values() if ready > added)
first, second = rows(one), rows(three)
print(
    json.dumps(
        {
            "rows": len(first),
            "same_ids": first.keys() == second.keys(),
            "same_rows": sum(first[name] == second[name] for name in first),
            "nodes_used": len({node for node, _, _ in seen.values()}),
            "joined_s": [round(s, 1) for s, _ in joined],
            "loading_s": [round(s, 1) for _, s in joined],
            "alone_s": round(alone_s, 1),
        }
    ),
    flush=True,
)
ray.shutdown()
cluster.shutdown()
