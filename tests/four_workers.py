"""Trainings of four workers on two nodes, and one worker's of the same (test_training_nodes.py).

Each is run a second time: as its manifest is written by the driver, it resumes from its last checkpoint.
"""

import json
import os
import sys
from pathlib import Path

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # ports on loopback (psr_ray.cluster.connect)
os.environ["RAY_TRAIN_V2_ENABLED"] = "1"

import ray
from conftest import TINY
from ray.cluster_utils import Cluster
from trainings import difference, train, write_preferences
from transformers import AutoModelForCausalLM

folder, stages = Path(sys.argv[1]), [int(stage) for stage in sys.argv[2:]]
rows = folder / "rows"
rows.mkdir()
write_preferences(rows)
here = {"node_ip_address": "127.0.0.1"}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **here})
for _ in range(2):
    cluster.add_node(num_cpus=2, **here)
ray.init(address=cluster.address, _node_ip_address="127.0.0.1", log_to_driver=False)


def trained(name, *settings):
    """Weights and steps of a training."""
    common = ("solutions_per_batch=4", "schedule=constant", "num_epochs=2", "checkpoint_steps=4")
    return train(rows, folder / name, "dpo", *(f"dpo.{s}" for s in (*common, *settings)))


start = AutoModelForCausalLM.from_pretrained(str(TINY))
one, steps = trained("one", "num_workers=1", "tokens_per_pass=8192", "zero_stage=0")
out = {"moved": difference(start, one), "steps": steps, "stages": {}}
for stage in stages:
    settings = ("num_workers=4", "tokens_per_pass=512", f"zero_stage={stage}")
    four, others = trained(f"four-{stage}", *settings)
    again, _ = trained(f"four-{stage}", *settings)
    kept = json.loads((folder / f"four-{stage}" / "checkpoints" / "latest.json").read_text())
    out["stages"][stage] = {
        "steps": others,
        "from_one": difference(one, four),
        "from_resumed": difference(four, again),
        "resumed_after": kept["step"],
    }
print(json.dumps(out), flush=True)
ray.shutdown()
cluster.shutdown()
