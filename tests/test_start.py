"""Where a run starts: `sft: null` takes the base model as M1."""

import io
import json

from conftest import ROOT
from rich.console import Console

from psr_ray.config.file import load_config
from psr_ray.data.stage import write_data
from psr_ray.doctor import check_data
from psr_ray.planning.show import print_plan
from psr_ray.run_models import model_path
from psr_ray.runs import RunDirectory
from psr_ray.stages import planned_stages
from psr_ray.storage.shards import read_rows

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


def problem_file(path, texts):
    path.write_text("".join(json.dumps({"id": i, "problem": t}) + "\n" for i, t in texts))
    return f"{{kind: file, path: {path}, num: 2}}"


def ids_of(folder, name):
    return [row["id"] for row in read_rows([folder / f"{name}.parquet"])]


def test_no_problem_is_searched_twice_whatever_its_id_and_ids_may_be_shared(tmp_path):
    texts = ["Two and two?", "Five less one?", "Seven times six?", "Half of eight?", "Two and two?"]
    first = problem_file(tmp_path / "a.jsonl", enumerate(texts))
    second = problem_file(tmp_path / "b.jsonl", enumerate(["Nine by three?", "Ten and one?"]))
    config = load_config(
        ROOT / "configs" / "smoke.yaml",
        ("sft=null", f"data.train=[{first}, {second}, {first}]", "num_iterations=3"),
    )
    write_data(config, tmp_path / "data")
    searched = [
        row["problem"]
        for k in (1, 2, 3)
        for row in read_rows([tmp_path / "data" / f"search-{k}.parquet"])
    ]
    assert len(searched) == len(set(searched)) == 6
    assert sorted(ids_of(tmp_path / "data", "search-2")) == ["0", "1"]


def test_held_out_problems_are_drawn_from_the_whole_file_alike_in_all_runs(tmp_path):
    path = tmp_path / "p.jsonl"
    problem_file(path, ((i, f"{i} and {i}?") for i in range(100)))
    held = []
    for seed in (0, 1):
        config = load_config(
            ROOT / "configs" / "smoke.yaml",
            (*START, f"seed={seed}", f"data.heldout={{kind: file, path: {path}, num: 10}}"),
        )
        write_data(config, tmp_path / f"data-{seed}")
        held.append(ids_of(tmp_path / f"data-{seed}", "heldout"))
    assert held[0] == held[1]
    assert len(held[0]) == 10
    assert any(int(i) >= 50 for i in held[0])


def test_the_base_models_content_is_in_the_keys_of_a_run_that_starts_from_it():
    def keys(*overrides):
        config = load_config("configs/smoke.yaml", (*START, *overrides))
        return {p.stage.name: p.stage.key for p in planned_stages(RunDirectory(config))}

    before, after = keys(), keys("model.base=another/model")
    assert after["data"] == before["data"]
    assert after["evaluate-M1"] != before["evaluate-M1"]
    assert after["search-1"] != before["search-1"]
