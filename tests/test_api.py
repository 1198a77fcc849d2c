"""psr-ray from Python."""

import subprocess
import sys

import pytest
from finished import finished_run

import psr_ray
from psr_ray.errors import PsrError


def test_what_a_run_wrote_is_read_by_its_names(tmp_path):
    path = finished_run(tmp_path).path
    run = psr_ray.load_run(path)
    assert run.path == path
    assert list(run.models) == ["M0", "M1", "M2", "M3"]
    assert run.models["M2"] == str(path / "train-1" / "model")
    assert [model["name"] for model in run.summary["models"]] == ["M0", "M1", "M2", "M3"]
    searches, pairs = run.searches(1), run.preferences(1)
    assert searches[0]["steps"][0]["candidates"][0]["text"]
    assert {"chosen_text", "rejected_text", "prompt_ids"} <= set(pairs.column_names)
    assert set(pairs["problem_id"]) <= set(searches["id"])
    with pytest.raises(PsrError, match="no stage search-9; the stages are data, evaluate-M0"):
        run.searches(9)
    with pytest.raises(PsrError, match="no such file"):
        psr_ray.load_run(tmp_path / "none")


def test_the_import_is_light_and_names_what_there_is():
    code = (
        "import sys, psr_ray; print([m for m in ('torch', 'ray', 'pydantic') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="has no attribute 'train'"):
        _ = psr_ray.train
