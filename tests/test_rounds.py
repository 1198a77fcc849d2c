"""Many small rounds: which models are evaluated, whose weights stay, what tables and figures show."""

import json

import pytest
from conftest import ROOT
from finished import solution

from actors.pipeline import Drivers, driven_in
from psr_ray.config.file import load_config
from psr_ray.data.stage import write_data
from psr_ray.errors import PsrError
from psr_ray.measures.evaluation import judge_figures
from psr_ray.measures.solutions import solution_figures
from psr_ray.report.curves import models_figure, rounds_figure
from psr_ray.report.display import finished_line, model_table, thinned
from psr_ray.report.html import write_report
from psr_ray.report.summary import summarize
from psr_ray.run_models import check_weights, drop_old_models, evaluated_before, force, made_models
from psr_ray.runs import MODEL_FOLDER, RunDirectory
from psr_ray.stages import planned_stages
from psr_ray.storage.files import read_table
from psr_ray.storage.shards import read_rows

MANY = ("num_iterations=50", "evaluate_every=5", "keep_models=3", "data.train=[{num: 20}]",
        "data.heldout.num=20", "data.ift.num=40", "data.eft.num=40", "data.hard=null")  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A run of many rounds whose first 12 are complete."""
    config = load_config(ROOT / "configs/demo.yaml", (f"runs_dir={tmp_path}", "name=many", *MANY))
    run = RunDirectory(config)
    for planned in planned_stages(run):
        stage, number = planned.stage, planned.iteration
        if number > 12:
            break
        stage.open()
        facts = {
            "evaluate": solution_figures([solution(j, j < 5 + number) for j in range(20)])
            | judge_figures([]),
            "search": {"num_searches": 20, "num_sampled_tokens": 100, "num_judge_tokens": 300,
                       "num_pairs_found": 10 + number, "tokens_per_pair": 400 / (10 + number),
                       "tie_share": 0.1, "search_accuracy": 0.5, "num_judged_steps": 60},
            "preferences": {"num_pairs": 10 + number},
            "train": {"steps_s": 2.0},
        }.get(planned.kind, {})  # fmt: skip
        if planned.kind in ("sft", "train"):
            (stage.folder / MODEL_FOLDER).mkdir()
            (stage.folder / MODEL_FOLDER / "config.json").write_text("{}")
        stage.finish(1.0, **facts)
    return run


def test_every_fifth_model_is_evaluated_and_the_last(run):
    evaluated = [p.model for p in planned_stages(run) if p.kind == "evaluate"]
    assert evaluated == ["M0", "M1", *(f"M{k}" for k in range(6, 52, 5))]
    odd = load_config(ROOT / "configs/demo.yaml", ("num_iterations=4", "evaluate_every=3"))
    names = [p.model for p in planned_stages(RunDirectory(odd)) if p.kind == "evaluate"]
    assert names == ["M0", "M1", "M4", "M5"]
    plan = planned_stages(run)
    assert [evaluated_before(plan, m) for m in ("M1", "M6", "M11")] == ["M1", "M1", "M6"]


@pytest.mark.parametrize(("idle", "said"), [(0.25, True), (0.05, False)])
def test_a_training_says_that_its_workers_are_idle(run, idle, said):
    training = next(p for p in planned_stages(run) if p.stage.name == "train-1")
    training.stage.finish(1.0, padding_share=idle)
    assert (f"{idle:.0%} of the workers' passes idle" in finished_line(training)) == said


def test_problems_are_dealt_out_without_repeats(run, tmp_path):
    folder = tmp_path / "data"
    write_data(run.config, folder)
    names = [folder / f"search-{k}.parquet" for k in range(1, 51)]
    texts = [row["problem"] for name in names for row in read_rows([name])]
    assert len(texts) == len(set(texts)) == 1000


def test_old_models_lose_their_weights_and_nothing_else(run):
    plan = planned_stages(run)
    drop_old_models(run.config, plan)
    assert made_models(plan) == ["M1", "M11", "M12", "M13"]
    assert all(p.stage.is_complete for p in plan if p.iteration <= 12)
    check_weights(run.config, plan, [p for p in plan if not p.stage.is_complete])
    again = [p for p in plan if p.stage.name == "search-9"]
    with pytest.raises(PsrError, match=r"search-9 needs M9.*--force train-1 makes it again"):
        check_weights(run.config, plan, again)


def test_a_model_that_a_stage_still_needs_keeps_its_weights(run):
    plan = planned_stages(run)
    evaluation = next(p for p in plan if p.stage.name == "evaluate-M6")
    (evaluation.stage.folder / "_MANIFEST.json").unlink()
    drop_old_models(run.config, plan)
    assert made_models(plan) == ["M1", "M6", "M11", "M12", "M13"]


def test_a_forced_stage_whose_model_is_gone_removes_nothing(run):
    plan = planned_stages(run)
    drop_old_models(run.config, plan)
    before = [p.stage.name for p in plan if p.stage.is_complete]
    with pytest.raises(PsrError, match="evaluate-M6 needs M6"):
        force(run.config, plan, "evaluate-M6")
    assert [p.stage.name for p in plan if p.stage.is_complete] == before
    assert force(run.config, plan, "search-12")[0] == "search-12"  # M12 is there
    assert force(run.config, plan, "train-1")[0] == "train-1"  # makes the others again


def test_a_shared_run_that_lost_its_models_is_named_and_left_alone(run):
    drop_old_models(run.config, planned_stages(run))
    values = {"name": "other", "shared_dir": str(run.path)}
    config = run.config.model_copy(update=values)
    plan = planned_stages(RunDirectory(config))
    drop_old_models(config, plan)
    assert made_models(plan) == ["M1", "M11", "M12", "M13"]
    again = [p for p in plan if p.stage.name == "search-9"]
    with pytest.raises(PsrError, match=r"the run in shared_dir made it"):
        check_weights(config, plan, again)
    with pytest.raises(PsrError, match=r"--force search-1: that stage is of the run in shared_dir"):
        force(config, plan, "search-1")
    assert all(p.stage.is_complete for p in plan if p.iteration <= 12)


def test_each_stage_has_its_driver(run):
    def drivers(*settings):
        config = load_config(ROOT / "configs/demo.yaml", settings)
        plan = planned_stages(RunDirectory(config))
        return {p.stage.name: driven_in(config, p) for p in plan}

    found = drivers("num_iterations=2")
    assert {name for name, driver in found.items() if driver == 0} == {"data", "evaluate-M0", "sft"}
    assert found["evaluate-M1"] == found["search-1"] == found["train-1"] == 1
    assert found["evaluate-M2"] == found["search-2"] == found["evaluate-M3"] == 2
    assert list(found.values()) == sorted(found.values())
    assert set(drivers("num_iterations=0").values()) == {0}
    assert drivers("num_iterations=1", "sft=null")["evaluate-M2"] == 1


def test_a_rank_correlation_to_a_model_that_is_no_longer_the_one_before_is_left_out(run):
    stage = next(p.stage for p in planned_stages(run) if p.stage.name == "evaluate-M11")
    facts = {
        key: value for key, value in stage.manifest.items() if key not in ("stage", "key", "wall_s")
    }
    probes = {"tau_before": 0.5, "tau_first": 0.4}
    for before, seen in (("M6", 0.5), ("M1", None)):
        stage.finish(1.0, **facts | {"model_before": before, "probes": probes})
        entry = summarize(run)["models"][-1]
        assert entry["probes"] == {"tau_before": seen, "tau_first": 0.4}


def test_figures_of_a_model_are_of_all_rounds_since_the_one_before(run):
    models = {entry["name"]: entry for entry in summarize(run)["models"]}
    assert list(models) == ["M0", "M1", "M6", "M11"]
    assert models["M6"]["num_pairs"] == 11 + 12 + 13 + 14 + 15
    assert models["M6"]["num_rounds"] == 5
    assert models["M6"]["wall_s"] == 5 * 3 + 1
    assert models["M11"]["learned_from"]["tie_share"] == pytest.approx(0.1)
    learned_from = models["M11"]["learned_from"]
    assert learned_from["num_searches"] == 100
    assert learned_from["tokens_per_pair"] == pytest.approx(5 * 400 / (16 + 17 + 18 + 19 + 20))


def test_tables_stay_short_and_figures_have_every_round(run):
    summary = summarize(run)
    assert [entry["iteration"] for entry in summary["rounds"]] == list(range(1, 13))
    assert summary["rounds"][3]["num_pairs"] == 14
    assert summary["rounds"][3]["seconds"]["train"] == 2.0
    assert rounds_figure(summary["rounds"]) is not None
    assert rounds_figure(summary["rounds"][:1]) is None
    assert models_figure([])  # before anything is evaluated
    first = summary["models"][1]
    many = [summary["models"][0], *(first | {"name": f"M{k}"} for k in range(1, 52))]
    names = [entry["name"] for entry in thinned(many)]
    assert names[:2] == ["M0", "M1"]
    assert names[-1] == "M51"
    assert len(names) <= 13
    assert model_table(summary | {"models": many}, 126).row_count == len(names)
    html = write_report(run.path, summary | {"models": many}).read_text()
    assert "39 more models are in the figures" in html


def test_a_driver_that_was_started_ahead_is_taken_once_and_none_is_after_the_last_iteration():
    numbers = iter(range(10))
    drivers = Drivers(lambda: next(numbers))
    assert drivers.take() == 0
    drivers.prepare()
    drivers.prepare()
    assert drivers.next == 1
    assert [drivers.take(), drivers.take()] == [1, 2]  # the second after a death
    drivers.are_more = False
    drivers.prepare()
    assert drivers.next is None


@pytest.mark.parametrize("kind", ["arithmetic", "file"])
def test_added_rounds_redo_nothing_of_those_before(tmp_path, kind):
    path = tmp_path / "problems.jsonl"
    lines = [json.dumps({"problem": f"What is {i}+{i}?", "answer": str(2 * i)}) for i in range(99)]
    path.write_text("\n".join(lines))
    source = {"kind": kind, "num": 8} | ({"path": str(path)} if kind == "file" else {})
    files, keys = {}, {}
    for num in (2, 3):
        settings = (f"num_iterations={num}", f"data.train={json.dumps([source])}")
        config = load_config(ROOT / "configs" / "smoke.yaml", (*settings, f"runs_dir={tmp_path}"))
        write_data(config, tmp_path / str(num))
        files[num] = {p.name: read_table(p) for p in (tmp_path / str(num)).glob("*.parquet")}
        plan = planned_stages(RunDirectory(config))
        keys[num] = {planned.stage.name: planned.stage.key for planned in plan}
    assert keys[2].pop("data") != keys[3]["data"]
    assert keys[2].items() <= keys[3].items()
    for name, table in files[2].items():
        assert files[3][name].equals(table), name
    ids = [value for k in (1, 2, 3) for value in files[3][f"search-{k}.parquet"]["id"].to_pylist()]
    assert len(ids) == len(set(ids)) == 24
