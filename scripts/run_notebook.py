"""Run docs/notebook.ipynb and store what its cells print.

    python scripts/run_notebook.py            (about three minutes on two cores)

Its runs go to a temporary folder. tests/test_wheel.py runs it smaller, and stores nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebook.ipynb"
# Seconds a cell may take.
LIMIT_S = 500


def executed(folder: Path, changes: Mapping[str, str] = MappingProxyType({})) -> Any:
    """The notebook, run in a folder, with some text of its cells replaced. Raises ``CellExecutionError``
    where a cell fails."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        for old, new in changes.items():
            cell.source = cell.source.replace(old, new)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=LIMIT_S, resources=resources, record_timing=False).execute()
    return notebook


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        notebook = executed(Path(folder))
    for cell in notebook.cells:  # warnings of libraries name this machine's folders
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
