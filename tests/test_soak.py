"""Five minutes of runs on one cluster with a fault a minute (`make soak`: an hour)."""

import pytest

from benchmarks.soak import soak


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(900)
def test_runs_in_a_loop_with_random_faults_lose_nothing_and_leave_nothing():
    result = soak(minutes=5, every_s=60, seed=1)
    assert result["failures"] == []
    assert len(result["runs"]) >= 2
    assert sum(result["faults"].values()) >= 3
