"""A pool that grows over simulated engines, as benchmarks.scale measures it."""

import os

import pytest
import ray

from benchmarks import scale
from psr_ray.config.file import load_config

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.long]


@pytest.fixture
def many_cores(monkeypatch):
    monkeypatch.setitem(os.environ, "RAY_AUTH_MODE", "disabled")
    ray.init(
        address="local", _node_ip_address="127.0.0.1", num_cpus=14, include_dashboard=False,
        log_to_driver=False,
    )  # fmt: skip
    yield
    ray.shutdown()


def test_all_engines_of_a_growing_pool_start_together_and_get_work(many_cores, tmp_path):
    size = scale.Size(2_000, 8, 16)
    scale.write_problems(size.num_problems, tmp_path / "problems.parquet")
    config = load_config("configs/smoke.yaml", ["engine.rows_per_shard=16"])
    found = scale.ours(size, 1, config, 4.0, 0.5, tmp_path)
    assert found["engines_used"] == size.num_engines
    # processes start one after the other on two cores; a second wave came once the first was at work
    assert found["all_engines_s"] < found["start_s"] + 30
    plain = scale.plain(size, 4.0, 0.5)
    assert plain["engines_used"] == size.num_engines
    print(found, plain)
