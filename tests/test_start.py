"""Where a run starts: `sft: null` takes the base model as M1."""

import io

from conftest import ROOT
from rich.console import Console

from psr_ray.config.file import load_config
from psr_ray.data.stage import write_data
from psr_ray.doctor import check_data
from psr_ray.planning.show import print_plan
from psr_ray.runs import RunDirectory
from psr_ray.stages import model_path, planned_stages

START = ("sft=null", "data.ift={kind: file, path: none.jsonl}", "data.train=[{num: 5}]")


def test_without_a_fine_tuning_the_base_model_is_m1_and_no_seed_data_is_read(tmp_path):
    config = load_config(ROOT / "configs" / "smoke.yaml", (*START, f"runs_dir={tmp_path}"))
    plan = planned_stages(RunDirectory(config))
    assert [planned.stage.name for planned in plan] == [
        "data", "evaluate-M1", "search-1", "preferences-1", "train-1", "evaluate-M2",
    ]  # fmt: skip
    assert model_path(plan, "M1", config) == config.model.base
    assert "none.jsonl" not in check_data(config)
    facts = write_data(config, tmp_path / "data")
    assert facts["rows"].keys() == {
        "heldout", "judge", "search-1", "heldout-search", "heldout-sample",
    }  # fmt: skip
    text = io.StringIO()
    print_plan(config, Console(file=text, width=200))
    assert "sft" not in text.getvalue().split("what each stage will do")[1]


def test_the_base_models_content_is_in_the_keys_of_a_run_that_starts_from_it():
    def keys(*overrides):
        config = load_config("configs/smoke.yaml", (*START, *overrides))
        return {p.stage.name: p.stage.key for p in planned_stages(RunDirectory(config))}

    before, after = keys(), keys("model.base=another/model")
    assert after["data"] == before["data"]
    assert after["evaluate-M1"] != before["evaluate-M1"]
    assert after["search-1"] != before["search-1"]
