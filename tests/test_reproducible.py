"""The same seed gives the same models, whatever the number of engines and who finished first."""

import pytest
from conftest import ROOT

from psr_ray.config.file import load_config
from psr_ray.report.display import NoDisplay
from psr_ray.storage.shards import read_rows, shards

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.long]

MADE = ("data", "sft", "search", "preferences", "train")


def trained(folder, *settings):
    """A run's searches, and the weights of its M1 and M2, byte by byte."""
    from actors.pipeline import run_pipeline

    overrides = (
        f"runs_dir={folder}", "engine.seeded_sampling=true", "data.train=[{num: 30}]",
        "search.num_candidates=6", "search.max_steps=4", "sft.lr=2e-3", "sft.zero_stage=0", *settings,
    )  # fmt: skip
    config = load_config(ROOT / "configs" / "smoke.yaml", overrides)
    run_pipeline(config, NoDisplay(), wanted=lambda planned: planned.kind in MADE)
    names = ("sft", "train-1")
    weights = [folder / "smoke" / name / "model" / "model.safetensors" for name in names]
    searches = read_rows(shards(folder / "smoke" / "search-1" / "search"))
    return {row["id"]: row["steps"] for row in searches}, [path.read_bytes() for path in weights]


def test_models_are_the_same_bit_by_bit_on_one_engine_and_on_two(ray_up, tmp_path):
    """At full load, too: all searches at once, which once ended the engine on CPU."""
    searches, weights = trained(tmp_path / "one")
    again, same = trained(tmp_path / "two", "engine.num_engines=[2,2]", "engine.rows_per_shard=7")
    assert len(searches) == 30
    assert searches == again
    assert weights == same
