"""Whether a run is whole: every row of every stage of engines, every step of every training, once."""

from __future__ import annotations

import json
from pathlib import Path

from psr_ray.storage.shards import read_rows, shards

MEASURED = ("heldout", "judge", "heldout-search", "heldout-sample")
Item = tuple[str, str, str | int]


def expected_and_found(run_dir: Path, num_iterations: int = 1) -> tuple[list[Item], list[Item]]:
    """(stage, task, id) of all rows and steps of a run of one iteration, or none: expected and found."""
    wanted: dict[str, tuple[str, ...]] = {
        "evaluate-M0": ("heldout", "judge"),
        "evaluate-M1": MEASURED,
    }
    trainings = ["sft"]
    if num_iterations:
        wanted |= {"search-1": ("search-1",), "evaluate-M2": MEASURED}
        trainings.append("train-1")
    expected: list[Item] = []
    found: list[Item] = []
    for stage, files in wanted.items():
        inputs = [run_dir / "data" / f"{name}.parquet" for name in files]
        if stage == "evaluate-M2":
            inputs.append(run_dir / "evaluate-M1" / "probes.parquet")
        for row in read_rows(path for path in inputs if path.exists()):
            expected.append((stage, row["task"], row["id"]))
        for folder in {part.parent for part in (run_dir / stage).glob("*/part-*.parquet")}:
            found += [(stage, folder.name, row["id"]) for row in read_rows(shards(folder))]
    for stage in trainings:
        lines = (run_dir / stage / "metrics.jsonl").read_text().splitlines()
        num = json.loads((run_dir / stage / "training.json").read_text())["num_steps"]
        expected += [(stage, "step", number + 1) for number in range(num)]
        found += [(stage, "step", json.loads(line)["step"]) for line in lines]
    return expected, found
