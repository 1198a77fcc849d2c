import io
import json

import yaml
from conftest import ROOT
from rich.console import Console

from psr_ray.config.file import load_config
from psr_ray.inference.records import SOLUTION_SCHEMA
from psr_ray.inference.search_rows import SEARCH_SCHEMA
from psr_ray.measures.evaluation import judge_figures
from psr_ray.measures.solutions import solution_figures
from psr_ray.planning.show import print_plan
from psr_ray.report.curves import training_curves
from psr_ray.report.display import cells, duration, model_table
from psr_ray.report.html import headline, search_stages, write_report
from psr_ray.report.status import print_status
from psr_ray.report.summary import write_summary
from psr_ray.runs import CONFIG_FILE, RunDirectory
from psr_ray.stages import planned_stages
from psr_ray.storage.shards import write_shard


def solution(i, correct, **other):
    return {
        "id": str(i), "problem": "p", "answer": "1", "text": "Step 1: x", "predicted": "1",
        "correct": correct, "finish": "eos", "num_steps": 2, "num_tokens": 20, "error": None,
    } | other  # fmt: skip


def test_accuracy_counts_failed_rows_as_wrong_and_leaves_out_unknown_answers():
    rows = [solution(0, True), solution(1, False), solution(2, None, answer=None)]
    rows.append({"id": "3", "problem": "p", "answer": "1", "error": "too long"} | dict.fromkeys(
        ("correct", "predicted", "finish", "num_steps", "num_tokens")
    ))  # fmt: skip
    figures = solution_figures(rows)
    assert figures["num_problems"] == 3
    assert figures["accuracy"] == 1 / 3
    assert abs(figures["accuracy_se"] - (1 / 3 * 2 / 3 / 3) ** 0.5) < 1e-12
    assert figures["num_failed"] == 1
    assert figures["tokens_per_step"] == 10


def test_judge_accuracy_is_a_mean_over_both_orders_with_missing_verdicts_wrong():
    rows = [
        {"id": "0", "verdict": "A", "first_order": 1.0, "second_order": 0.0},  # right both times
        {"id": "1", "verdict": "A", "first_order": 1.0, "second_order": 1.0},  # flipped
        {"id": "2", "verdict": "B", "first_order": 0.0, "second_order": None},  # one missing
    ]
    figures = judge_figures(rows)
    assert figures["judge_accuracy_fixed"] == (1.0 + 0.5 + 0.5) / 3
    assert figures["order_flip_share_fixed"] == 1 / 3
    assert figures["unparsable_share_fixed"] == 1 / 6


def finished_run(tmp_path, name="<b>x</b>"):
    """A run folder whose stages are complete, with made-up figures."""
    config = load_config(ROOT / "configs" / "smoke.yaml", (f"runs_dir={tmp_path}", f"name={name}"))
    run = RunDirectory(config)
    for i, planned in enumerate(planned_stages(run)):
        planned.stage.open()
        facts = {}
        if planned.kind == "evaluate":
            facts = solution_figures([solution(j, j < 5 + i) for j in range(20)])
            facts |= judge_figures([])
        if planned.kind == "preferences":
            facts = {"num_pairs": 7, "chosen_right_share": 0.9, "rejected_right_share": 0.1}
        if planned.kind == "train":
            line = {"step": 1, "dpo_loss": 0.69, "chosen_logp_change": 0.0}
            line |= {"rejected_logp_change": 0.0, "accuracy": 0.5}
            (planned.stage.folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        planned.stage.finish(1.0, **facts)
    hostile = {"id": "s", "problem": "<script>alert(1)</script>", "end": "finished", "steps": []}
    row = dict.fromkeys(SEARCH_SCHEMA.names) | hostile | {"num_rollbacks": 1}
    write_shard(run.path / "search-1" / "search", [row], SEARCH_SCHEMA)
    return run


def test_the_report_shows_every_model_and_treats_texts_as_data(tmp_path):
    run = finished_run(tmp_path)
    summary = write_summary(run)
    assert [m["name"] for m in summary["models"]] == ["M0", "M1", "M2"]
    assert summary["models"][2]["num_pairs"] == 7
    html = write_report(run.path, summary).read_text()
    assert "<script>alert" not in html
    assert "\\u003cscript\\u003ealert(1)" in html  # as data of the walk-through
    assert "<b>x</b>" not in html
    assert (run.path / "report.png").stat().st_size > 1000


def test_a_complete_run_is_reported_as_complete_and_an_unfinished_one_is_not(tmp_path):
    run = finished_run(tmp_path, "done")
    values = run.config.model_dump(mode="json")
    (run.path / CONFIG_FILE).write_text(yaml.safe_dump(values))

    def status():
        console = Console(width=120, file=io.StringIO())
        print_status(run.path, console)
        return console.file.getvalue()

    assert status().splitlines()[-1].strip() == "complete"
    (run.path / "train-1" / "_MANIFEST.json").unlink()
    assert "not running: rerun the command, or submit the job again, to resume" in status()


def test_the_changes_of_a_training_are_those_of_all_its_pairs(tmp_path):
    run = finished_run(tmp_path)
    for planned in planned_stages(run):
        if planned.stage.name == "train-1":
            last = {"dpo_loss": 0.5, "chosen_logp_change": 0.3}  # of one batch
            learned = {"chosen_logp_change": -1.5, "rejected_logp_change": -4.0}
            planned.stage.finish(1.0, last=last, learned=learned)
    summary = write_summary(run)
    assert summary["models"][2]["training"]["chosen_logp_change"] == -1.5
    assert [a["kind"] for a in summary["alarms"]] == ["likelihood displacement"]


def test_figures_of_earlier_settings_are_left_out(tmp_path):
    run = finished_run(tmp_path)
    changed = run.config.dpo.model_copy(update={"lr": 0.5})
    again = RunDirectory(run.config.model_copy(update={"dpo": changed}))
    summary = write_summary(again)  # not trained yet: all are of the earlier settings
    assert [model["name"] for model in summary["models"]] == ["M0", "M1", "M2"]
    for planned in planned_stages(again):
        if planned.stage.name == "train-1":
            planned.stage.open()
            planned.stage.finish(1.0, last={"dpo_loss": 0.5, "chosen_logp_change": -9.0})
    summary = write_summary(again)
    assert [model["name"] for model in summary["models"]] == ["M0", "M1"]
    assert summary["outdated"] == ["evaluate-M2"]
    assert [(a["kind"], a["model"]) for a in summary["alarms"]] == [
        ("likelihood displacement", "M2")
    ]


def test_searches_and_curves_of_earlier_settings_are_left_out(tmp_path):
    run = finished_run(tmp_path)
    changed = run.config.search.model_copy(update={"top_p": 0.5})
    again = RunDirectory(run.config.model_copy(update={"search": changed}))
    for planned in planned_stages(again):
        if planned.stage.name in ("evaluate-M0", "evaluate-M1"):
            planned.stage.open()
            planned.stage.finish(1.0, **solution_figures([solution(1, True)]), **judge_figures([]))
    summary = write_summary(again)
    assert summary["outdated"] == ["search-1", "preferences-1", "train-1", "evaluate-M2"]
    (run.path / "search-1").mkdir(exist_ok=True)
    assert search_stages(run.path, summary["outdated"]) == []
    assert training_curves(run.path, 1, summary["outdated"]) is None
    assert training_curves(run.path, 1, []) is not None


def test_a_run_of_another_version_is_reported_as_it_is(tmp_path, monkeypatch):
    run = finished_run(tmp_path)
    monkeypatch.setattr("psr_ray.runs.FORMAT", 0)
    assert not any(planned.stage.is_complete for planned in planned_stages(run))
    assert [model["name"] for model in write_summary(run)["models"]] == ["M0", "M1", "M2"]


def test_the_table_turns_on_a_narrow_screen(tmp_path):
    summary = write_summary(finished_run(tmp_path))
    assert len(model_table(summary, 126).columns) == 11
    assert len(model_table(summary, 80).columns) == 4
    assert cells(summary["models"][0])[3] == "–"


def test_the_headline_says_rose_only_beyond_two_standard_errors():
    def models(*values):
        return [
            {"name": f"M{i}", "accuracy": v, "accuracy_se": 0.016} for i, v in enumerate(values)
        ]

    assert "rose: +10.0 points" in headline(models(0, 0.5, 0.6))
    assert "did not clearly move: +2.0" in headline(models(0, 0.5, 0.52))
    assert "fell: -10.0" in headline(models(0, 0.5, 0.4))
    assert SOLUTION_SCHEMA.names[0] == "id"


def test_durations_read_well():
    assert duration(42.4) == "42 s"
    assert duration(185) == "3 min 05 s"


def test_the_plan_knows_each_stage_before_anything_runs(tmp_path):
    config = load_config(ROOT / "configs" / "demo.yaml", (f"runs_dir={tmp_path}",))
    console = Console(width=200, file=io.StringIO())
    print_plan(config, console)
    text = console.file.getvalue()
    assert "1200 optimizer steps" in text  # 4 solutions and 4 judged rows a step
    assert text.count("to do") == 16
    assert "0.9M parameters" in text
    assert not any(tmp_path.iterdir())
