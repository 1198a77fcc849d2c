"""Two runs, or more, on one cluster with random faults (`make soak`: an hour)."""

import pytest

from benchmarks.soak import soak


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.faults
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_runs_in_a_loop_with_random_faults_lose_nothing_and_leave_nothing():
    result = soak(minutes=0.7, every_s=20, seed=1)
    assert result["failures"] == []
    assert len(result["runs"]) >= 1
    assert sum(result["faults"].values()) >= 2
