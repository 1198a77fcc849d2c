"""The pairs that benchmarks/train.py trains on: real searches with 4, 8 and 16 steps.

python -m benchmarks.make_pairs          (about ten minutes on two cores; its files are committed)
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from psr_ray.config.file import load_config
from psr_ray.method.preferences import PREFERENCE_SCHEMA, preferences_of
from psr_ray.storage.files import Row
from psr_ray.storage.shards import read_rows, shards, write_rows

HERE = Path(__file__).resolve().parent
CONFIG = HERE / "pairs.yaml"
NUM_PAIRS = 256


def psr_ray(*arguments: str) -> None:
    """Run the command line in a process of its own."""
    subprocess.run([str(Path(sys.executable).with_name("psr-ray")), *arguments], check=True)


def main() -> None:
    """Fine-tune, search problems of each length, keep the first searches' pairs."""
    config = load_config(CONFIG)
    psr_ray("train", "--config", str(CONFIG))
    model = config.run_dir / "sft" / "model"
    for num_steps in (4, 8, 16):
        out = config.run_dir / f"search-{num_steps}"
        problems = f"data.heldout.num_steps=[{num_steps},{num_steps}]"
        psr_ray(
            "search", "--config", str(CONFIG), "--model", str(model), "--out", str(out),
            "--num", str(NUM_PAIRS // 2), "--show", "0", "--set", problems,
        )  # fmt: skip
        rows: list[Row] = []
        for search in sorted(read_rows(shards(out / "search")), key=lambda row: str(row["id"])):
            kept = [step for step in search["steps"] or [] if step["kept"]]
            if search["end"] == "finished" and len(kept) == num_steps:
                rows += preferences_of(search)
        write_rows(
            HERE / "data" / f"pairs-{num_steps}.parquet", rows[:NUM_PAIRS], PREFERENCE_SCHEMA
        )
        print(f"{num_steps} steps: {len(rows)} pairs")


if __name__ == "__main__":
    main()
