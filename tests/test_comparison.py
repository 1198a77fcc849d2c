"""A small comparison with the real parts: shared stages, records, resumption, the page."""

import json
import shutil

import pytest
import yaml
from conftest import ROOT
from rich.console import Console

from psr_ray.compare.config import load_comparison, planned_runs
from psr_ray.compare.evidence import update_evidence
from psr_ray.compare.results import write_results

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Three methods, one seed, two iterations of the smoke config, all on the real stack."""
    from actors.comparison import run_comparison

    folder = tmp_path_factory.mktemp("comparison")
    values = {
        "name": "small",
        "base": str(ROOT / "configs" / "smoke.yaml"),
        "seeds": [0],
        "parallel_runs": 2,
        "results_dir": str(folder / "results"),
        "overrides": {
            "runs_dir": str(folder / "runs"),
            "num_iterations": 2,
            "data.eft_solutions": {"num": 64},
            "data.heldout": {"num": 8, "seed": 0},
            "data.hard": {"num": 4, "num_steps": [6, 7], "highest_value": 199, "seed": 0},
            "judge.max_points_tokens": 200,
            "sft.num_workers": 1,
            "sft.num_epochs": 1,
            "dpo.num_workers": 1,
        },
        "methods": {
            "process": {},
            "frozen-judge": {"method.judge": "first"},
            "averaged-judge": {"method.judge": "average"},
        },
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    comparison = load_comparison(path)
    console = Console(record=True, width=200)
    run_comparison(comparison, console)
    return comparison, console.export_text()


def test_every_run_leaves_a_record_and_shares_what_agrees(finished):
    comparison, said = finished
    runs = list(planned_runs(comparison))
    assert all(run.record.is_file() for run in runs)
    assert said.count("fine-tune M0 → M1") == 1  # one M1 for the seed
    [frozen] = [run for run in runs if run.method == "frozen-judge"]
    assert not (frozen.config.run_dir / "sft").exists()
    assert sum((run.config.run_dir / "search-1").exists() for run in runs) == 1
    assert (frozen.config.run_dir / "search-2").exists()  # M2 searched, M1 judged, in one engine
    [averaged] = [run for run in runs if run.method == "averaged-judge"]
    assert len(list((averaged.config.run_dir / "averages").iterdir())) == 1  # no search by M3
    record = json.loads(frozen.record.read_text())
    assert [entry["name"] for entry in record["models"]] == ["M0", "M1", "M2", "M3"]
    assert len(record["correct"]["M3"]["heldout"]) == 8
    assert len(record["correct"]["M3"]["hard"]) == 4
    last = record["models"][-1]
    assert last["probes"]["num_probes"] > 0
    assert last["pass_at_8"] is not None
    assert last["test_time"]["num_problems"] == 6


def test_a_second_time_it_has_nothing_to_do_even_without_the_runs(finished):
    from actors.comparison import run_comparison

    comparison, _ = finished
    shutil.rmtree(next(planned_runs(comparison)).config.run_dir)
    console = Console(record=True, width=200)
    run_comparison(comparison, console)
    assert console.export_text().strip() == "3 runs, 3 stored or not asked for"


def test_the_page_is_made_from_the_records(finished, tmp_path):
    comparison, _ = finished
    evidence, _ = update_evidence(comparison)
    page = tmp_path / "results.md"
    write_results(evidence, page)
    assert "| frozen-judge |" in page.read_text()
    assert write_results(evidence, page, check=True) == []
