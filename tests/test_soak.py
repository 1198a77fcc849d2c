"""Runs one after the other on one cluster of three hosts, with random faults (`make soak`: an hour)."""

import json
import os
import time

import pytest
from host_cluster import HostCluster
from soak import Soak

MINUTES = float(os.environ.get("SOAK_MINUTES", "2"))
EVERY_S = 60 if MINUTES > 10 else 20

# Held at rest at the end, at most, relative to the first run's end.
MOST_HANDLES, MOST_MB = 1.2, 1.3


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.faults
@pytest.mark.long
@pytest.mark.timeout(1800 + 60 * MINUTES)
def test_runs_in_a_loop_with_random_faults_lose_nothing_and_leave_nothing(hosts, tmp_path):
    cluster = HostCluster(hosts, tmp_path)
    with cluster.running():
        cluster.await_nodes(3)
        soak = Soak(cluster, seed=1)
        over, spent, runs = time.time() + 60 * MINUTES, 0.0, []
        while len(runs) < 2 or time.time() + spent / 2 < over:
            began = time.time()
            runs.append(soak.run(f"run-{len(runs)}", EVERY_S, over))
            spent = time.time() - began
            print(f"run {len(runs)}: {runs[-1]}; so far {dict(soak.faults)}", flush=True)
    if "SOAK_TABLE" in os.environ:
        result = {"minutes": MINUTES, "every_s": EVERY_S, "faults": dict(soak.faults)}
        result |= {"slowest_end_s": max(soak.ends, default=0.0), "runs": runs}
        with open(os.environ["SOAK_TABLE"], "w") as file:
            json.dump(result, file)
    assert all(run["items"] > 0 for run in runs)
    assert [(run["lost"], run["doubled"]) for run in runs] == [(0, 0)] * len(runs)
    first, last = runs[0], runs[-1]
    assert last["actors"] <= first["actors"]
    assert last["handles"] <= MOST_HANDLES * first["handles"]
    assert last["mb"] <= MOST_MB * first["mb"]
    assert soak.faults.total() >= 2
