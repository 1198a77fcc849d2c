"""Two and a half minutes of runs on one cluster with random faults (`make soak`: an hour)."""

import pytest

from benchmarks.soak import soak


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(900)
def test_runs_in_a_loop_with_random_faults_lose_nothing_and_leave_nothing():
    result = soak(minutes=2.5, every_s=40, seed=1)
    assert result["failures"] == []
    assert len(result["runs"]) >= 1
    assert sum(result["faults"].values()) >= 2
