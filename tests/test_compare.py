"""Comparisons: which runs, their statistics, and a results page that is made, never written."""

import json

import pytest
from conftest import ROOT
from pydantic import ValidationError
from stored_comparison import page_of, record, rewrite, small_comparison

from psr_ray.compare.config import CompareConfig, load_comparison, planned_runs
from psr_ray.compare.evidence import stored_records, update_evidence
from psr_ray.compare.results import accuracy_figure, render, write_results
from psr_ray.data.stage import write_data
from psr_ray.errors import PsrError
from psr_ray.measures.evaluation import mean_and_error
from psr_ray.runs import RunDirectory
from psr_ray.stages import planned_stages, settings_that_count
from psr_ray.storage.shards import read_rows

EVIDENCE = ROOT / "configs" / "evidence.yaml"


def keys(config):
    return {
        planned.stage.name: planned.stage.key for planned in planned_stages(RunDirectory(config))
    }


def test_methods_of_a_seed_share_all_up_to_m1_and_what_they_have_in_common():
    runs = {
        run.method: keys(run.config)
        for run in planned_runs(load_comparison(EVIDENCE))
        if run.seed == 0
    }
    process = runs.pop("process")
    for name, other in runs.items():
        for stage in ("data", "evaluate-M0", "sft", "evaluate-M1"):
            assert other[stage] == process[stage], (name, stage)
        assert other["evaluate-M4"] != process["evaluate-M4"], name
    assert runs["frozen-judge"]["evaluate-M2"] == process["evaluate-M2"]  # M1 is the judge in both
    assert runs["frozen-judge"]["search-2"] != process["search-2"]
    assert runs["sft-on-chosen"]["search-1"] == process["search-1"]
    assert runs["sft-on-chosen"]["train-1"] != process["train-1"]
    assert runs["random-pairs"]["search-1"] != process["search-1"]


def test_seeds_share_the_held_out_problems_and_nothing_else():
    runs = [run for run in planned_runs(load_comparison(EVIDENCE)) if run.method == "process"]
    assert len(runs) >= 5
    assert {run.config.data.heldout.seed for run in runs} == {0}
    assert len({keys(run.config)["sft"] for run in runs}) == len(runs)


def test_mean_and_standard_error_over_seeds():
    assert mean_and_error([0.1, 0.2, 0.3]) == (pytest.approx(0.2), pytest.approx(0.1 / 3**0.5))
    assert mean_and_error([0.1]) == (0.1, None)


@pytest.fixture
def comparison(tmp_path):
    return small_comparison(tmp_path)


def test_evidence_and_page_come_from_the_records_alone(comparison, tmp_path):
    evidence, written = update_evidence(comparison)
    assert written == [comparison.evidence]
    assert evidence["methods"]["process"]["rise_mean"] == pytest.approx(0.2)
    assert evidence["process_minus_outcome"] == pytest.approx(0.15)
    low, high = evidence["process_minus_outcome_ci95"]
    assert 0 < low < 0.15 < high
    assert evidence["test_time"]["M2"]["search_minus_greedy"] == pytest.approx(0.1)
    page = tmp_path / "docs" / "results.md"
    assert len(write_results(evidence, page)) == 3
    assert "| outcome | 50.0" in page.read_text()
    assert "alarm, seed 1, M2: length bias: long" in page.read_text()
    assert write_results(evidence, page, check=True) == []  # drawn again, the same to the byte
    page.write_text(page.read_text().replace("50.0", "51.0"))
    assert write_results(evidence, page, check=True) == [page]


def test_the_page_says_how_many_solutions_are_right_in_every_step(comparison):
    assert "Right in every step" not in page_of(comparison)
    for seed in comparison.seeds:
        models = json.loads(comparison.record("process", seed).read_text())["models"]
        models[-1]["steps_right_share"] = 0.4 + 0.1 * seed
        rewrite(comparison, "process", seed, models=models)
    assert "| process | – | 45.0 | | outcome | – | – |" in page_of(comparison)


def test_tokens_of_all_purposes_count(comparison):
    cost = {"num_sampled_tokens": 20, "num_judge_tokens": 30, "num_pairs": 5, "wall_s": 1.0}
    rewrite(comparison, "outcome", 0, cost=cost)  # a record from before `refresh`
    rewrite(comparison, "outcome", 1, cost=cost | {"num_refresh_tokens": 7})
    evidence, _ = update_evidence(comparison)
    assert evidence["methods"]["outcome"]["tokens_mean"] == 53.5


def test_the_page_says_what_its_intervals_are_of(comparison):
    page = page_of(comparison)
    assert "Intervals are 95 %, by Student's t, for other seeds and other problems" in page
    assert (
        "With 2 seeds an interval reaches at least 12.7 standard errors over seeds to each side."
        in page
    )
    assert "over problems alone" not in page
    comparison.record("outcome", 1).unlink()
    page = page_of(comparison)
    assert (
        "With one seed (`outcome`, `process` minus `outcome`) it is over problems alone, and says "
        "nothing of other seeds." in page
    )


def test_the_page_says_of_which_pairs_it_has_the_change_of_training(comparison):
    for seed in comparison.seeds:
        for method in comparison.methods:
            models = json.loads(comparison.record(method, seed).read_text())["models"]
            models[-1]["training"] = {"chosen_logp_change": 0.1}
            rewrite(comparison, method, seed, models=models)
    last, pairs = "a mean of the last batch", "of all its pairs, measured after it."
    assert f"{last}." in page_of(comparison)
    models[-1]["training"]["num_measured_pairs"] = 7
    rewrite(comparison, "random-pairs", 1, models=models)
    assert f"{last} or, in newer records, {pairs}" in page_of(comparison)


def test_the_page_says_that_all_start_from_one_m1_where_they_do(comparison):
    assert "start from one M1, take the same problems, and run" in page_of(comparison)
    models = json.loads(comparison.record("outcome", 1).read_text())["models"]
    models[1]["accuracy"] = 0.51
    rewrite(comparison, "outcome", 1, models=models)
    page = page_of(comparison)
    assert "All methods of a seed take the same problems and run through the same code" in page


def test_records_of_unequal_numbers_of_problems_are_named(comparison):
    short = {"M1": {"heldout": "10", "hard": ""}, "M2": {"heldout": "10", "hard": ""}}
    rewrite(comparison, "outcome", 1, correct=short)
    with pytest.raises(PsrError, match=r"outcome-seed-1, M[12]: heldout: outcomes of 2 problems"):
        update_evidence(comparison)


def test_a_record_of_other_settings_is_named(comparison):
    for run in planned_runs(comparison):
        was = json.loads(json.dumps(settings_that_count(run.config)))
        del was["search.tie_break"]  # as if there had been no such setting
        rewrite(comparison, run.method, run.seed, made_with=was)

    def stored(methods=None, **overrides):
        update = {"overrides": overrides} | ({} if methods is None else {"methods": methods})
        return stored_records(comparison.model_copy(update=update))

    speed = {"dpo.gradient_checkpointing": True, "engine.max_num_seqs": 8, "keep_models": 1}
    assert len(stored(**speed, **{"search.tie_break": "first"})) == 6
    for name, value in {"num_candidates": 4, "top_p": 0.3}.items():
        with pytest.raises(PsrError, match=rf"seed-0\.json: .*\(search\.{name}: .* → {value}\)"):
            stored(**{f"search.{name}": value})
    with pytest.raises(PsrError, match=r"engine\.seeded_sampling: "):
        stored(**{"engine.seeded_sampling": True})
    with pytest.raises(PsrError, match=r"outcome-seed-0\.json: .*num_candidates: .* → 4"):
        stored(comparison.methods | {"outcome": {"search.num_candidates": 4}})


def test_records_of_different_problems_cannot_be_paired(comparison):
    values = record("outcome", 1, 0.5, 0.6, problems="y")
    (comparison.records / "outcome-seed-1.json").write_text(json.dumps(values))
    with pytest.raises(PsrError, match="different held-out problems"):
        update_evidence(comparison)


def test_methods_of_other_numbers_of_rounds_are_set_side_by_side_by_their_last_models(comparison):
    for seed in comparison.seeds:
        stored = json.loads(comparison.record("outcome", seed).read_text())
        stored["models"][-1]["name"] = "M37"
        correct = {"M1": stored["correct"]["M1"], "M37": stored["correct"]["M2"]}
        rewrite(comparison, "outcome", seed, models=stored["models"], correct=correct)
    evidence, _ = update_evidence(comparison)
    assert evidence["process_minus_outcome"] == pytest.approx(0.15)
    page = render(evidence, {"accuracy": "a.svg", "health": "h.svg"})
    assert "| method | M1 | M2 / M37 | rise |" in page
    assert "svg" in accuracy_figure(evidence)


def test_the_comparison_of_round_sizes_searches_the_same_problems(tmp_path):
    comparison = load_comparison(ROOT / "configs" / "small-rounds.yaml")
    texts = {}
    for planned in planned_runs(comparison):
        if planned.seed == 0:
            folder = tmp_path / planned.method
            write_data(planned.config, folder)
            names = [f"search-{k}" for k in range(1, planned.config.num_iterations + 1)]
            rows = [row for name in names for row in read_rows([folder / f"{name}.parquet"])]
            texts[planned.method] = [row["problem"] for row in rows]
    assert len(texts["3x120"]) == len(set(texts["3x120"])) == 360
    assert texts["3x120"] == texts["12x30"] == texts["36x10"]


def test_differences_of_any_two_methods(comparison):
    for seed, (own, other) in enumerate([(0.9, 0.7), (0.8, 0.7)]):
        for method, value in (("outcome", own), ("random-pairs", other)):
            models = json.loads(comparison.record(method, seed).read_text())["models"]
            models[-1]["judge_accuracy_on_policy"] = value
            rewrite(comparison, method, seed, models=models)
    pairs = {"differences": [["outcome", "random-pairs"]]}
    evidence, _ = update_evidence(CompareConfig.model_validate(comparison.model_dump() | pairs))
    assert evidence["differences"] == {"outcome_minus_random_pairs": ["outcome", "random-pairs"]}
    assert evidence["outcome_minus_random_pairs"] == pytest.approx(0.1)
    assert evidence["outcome_minus_random_pairs_judge_accuracy_on_policy"] == pytest.approx(0.15)
    half = 12.706 * 0.05  # Student's t of one degree of freedom times the standard error
    assert evidence["outcome_minus_random_pairs_judge_accuracy_on_policy_ci95"] == pytest.approx(
        [0.15 - half, 0.15 + half], abs=1e-3
    )
    assert "outcome_minus_random_pairs_pass_at_8" not in evidence
    assert "process_minus_outcome" not in evidence
    page = " ".join(render(evidence, {"accuracy": "a.svg", "health": "h.svg"}).split())
    assert "| outcome − random-pairs | +10.0 [" in page
    assert "on the harder set" not in page


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([["process", "none"]], "'none' is none of `methods`"),
        ([["process", "process"]], "a pair is given twice, or is of one method"),
        ([["process", "outcome"], ["process", "outcome"]], "a pair is given twice"),
    ],
)
def test_differences_that_cannot_be(comparison, pairs, message):
    with pytest.raises(ValidationError, match=message):
        CompareConfig.model_validate(comparison.model_dump() | {"differences": pairs})


def test_the_page_names_a_base_model_that_is_not_the_embedded_one(comparison):
    assert "The embedded problems make a case for the method" in page_of(comparison)
    base = {"base": "SmolLM2", "base_fingerprint": "a"}
    for method in comparison.methods:
        for seed in comparison.seeds:
            rewrite(comparison, method, seed, **base)
    assert "M0 is SmolLM2, the problems are" in page_of(comparison)
    rewrite(comparison, "outcome", 1, base_fingerprint="b")
    with pytest.raises(PsrError, match="of different base models"):
        update_evidence(comparison)
