"""The notebook of the docs runs, and what it stores was made by running it."""

import sys

import nbformat
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
from run_notebook import NOTEBOOK, executed


def test_the_stored_notebook_was_run_and_names_no_folder_of_this_machine():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [out for cell in cells for out in cell.outputs]
    assert len(outputs) >= len(cells) - 1
    assert not any(out.output_type == "error" for out in outputs)
    text = NOTEBOOK.read_text()
    assert "/tmp/" not in text
    assert str(ROOT) not in text


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_notebook_runs(tmp_path):
    smaller = {
        "num=800": "num=128", "num=200": "num=24", "num: 40": "num: 16",
        "num_search_problems: 20": "num_search_problems: 6",
        "num_iterations=1": 'num_iterations=1", "engine.num_engines=[1, 1]", "sft.num_workers=1", '
        '"dpo.num_workers=1',
    }  # fmt: skip
    assert all(old in NOTEBOOK.read_text() for old in smaller)
    notebook = executed(tmp_path, smaller)
    assert (tmp_path / "runs" / "notebook" / "report.html").is_file()
    printed = "".join(str(cell.get("outputs")) for cell in notebook.cells)
    assert "pairs from" in printed
