"""What the notebook of the docs stores was made by running it. tests/test_wheel.py runs it."""

import nbformat
from conftest import ROOT

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


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
