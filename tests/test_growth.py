"""Clusters that grow: nodes added to a search, nodes that Ray's autoscaler starts and ends."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from test_faults import MODEL, ids_in, stage

from benchmarks.heads import Head

pytestmark = [pytest.mark.slow, pytest.mark.faults]


def run_script(name, *arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "tests" / name), *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, check=False, timeout=500,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
    )  # fmt: skip


@pytest.mark.long
def test_three_nodes_give_the_rows_of_one_and_are_used_as_they_come(tmp_path, record):
    expected, _ = stage(tmp_path, 500)
    done = run_script("three_nodes.py", tmp_path, MODEL)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["rows"] == len(expected)
    assert found["same_ids"]
    assert found["same_rows"] == len(expected)
    assert found["nodes_used"] == 3
    assert max(found["joined_s"]) < 60, found  # 30 is the aim, on a machine with nothing else to do
    ids = [ids_in(tmp_path / name / "search") for name in ("one", "three")]
    assert sorted(ids[0]) == sorted(expected)
    record("two nodes join a search (and are used)", 2, expected, ids[1], max(found["joined_s"]))


@pytest.fixture
def growing(tmp_path):
    """A head without CPUs for work, and cluster.yaml's node types with a demo machine's resources."""
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    for name, kind in config["available_node_types"].items():
        kind["node_config"] = {}
        if name != config["head_node_type"]:
            kind["resources"], kind["max_workers"] = {"CPU": 1}, 1 if "7b" in name else 0
            kind["idle_timeout_s"] = 8
    head = Head(tmp_path / "head.log", autoscaling=config)
    yield head
    head.end()


def psr_search(head, out, *options):
    return subprocess.Popen(
        [
            str(Path(sys.executable).with_name("psr-ray")), "search", *options,
            "--config", "configs/smoke.yaml", "--num", "32", "--out", str(out), "--show", "0",
            "--set", "engine.num_engines=[1,2]", "--set", "engine.max_rows_in_flight=4",
            "--set", "engine.rows_per_shard=4", "--set", "engine.layout=restart",
        ],
        cwd=ROOT, env=head.environment | {"RAY_ADDRESS": head.address},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.long
def test_nodes_come_when_a_search_asks_for_engines_and_go_when_idle(growing, tmp_path):
    command = psr_search(growing, tmp_path / "out")
    never = psr_search(growing, tmp_path / "never", "--set", "engine.cpus_per_engine=8")
    assert never.wait(60) == 2
    said = never.stdout.read()
    assert "each 8 CPU on one node; this cluster can never have room for more than 0" in said
    most, started = 0, time.time()
    while command.poll() is None:
        assert time.time() < started + 240
        most = max(most, growing.num_nodes())
        time.sleep(0.5)
    said = command.stdout.read()
    assert command.returncode == 0, said
    assert len(ids_in(tmp_path / "out" / "search")) == 32
    assert most >= 2, said
    ended = time.time()
    while growing.num_nodes() > 1:
        assert time.time() < ended + 60
        time.sleep(0.5)
    print(
        {
            "most_nodes": most,
            "search_s": round(ended - started, 1),
            "idle_s": round(time.time() - ended, 1),
        }
    )
