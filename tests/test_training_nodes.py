"""Step-DPO of four gloo workers on two nodes, in every ZeRO stage."""

import json
import math
import os
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.long]


@pytest.mark.parametrize("stages", [(0, 1), (2, 3)])
def test_four_workers_on_two_nodes_take_the_steps_of_one(tmp_path, stages):
    command = [sys.executable, str(ROOT / "tests" / "four_workers.py"), str(tmp_path)]
    done = subprocess.run(
        command + [str(stage) for stage in stages],
        capture_output=True, text=True, cwd=ROOT, check=False, timeout=550,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found["moved"], found["stages"])
    assert found["moved"] > 1e-4
    for stage in stages:
        four = found["stages"][str(stage)]
        assert four["steps"][0]["dpo_loss"] == pytest.approx(math.log(2), abs=1e-4)
        for name in ("dpo_loss", "nll", "sft_loss", "grad_norm"):
            expected = [step[name] for step in found["steps"]]
            assert [step[name] for step in four["steps"]] == pytest.approx(expected, rel=5e-3), name
        assert four["from_one"] < 1e-4 * found["moved"]
        assert 0 < four["resumed_after"] < len(four["steps"])
        assert four["from_resumed"] < 1e-6 + 1e-4 * found["moved"]
