"""results/NAME.json: the comparison's figures, from the records that are stored."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from psr_ray.compare.config import CompareConfig
from psr_ray.compare.statistics import aggregate
from psr_ray.errors import PsrError
from psr_ray.runs import differences
from psr_ray.storage.files import Json, read_json, write_text

# Settings that change how fast a run is, not what it finds.
SPEED = re.compile(
    r"engine\.|telemetry\.|\S*\.(num_workers|cpus_per_worker|tokens_per_pass|use_gpu): "
)


def stored_records(comparison: CompareConfig) -> list[Json]:
    """The records of the planned methods and seeds, in the comparison's order. Raises ``PsrError`` for
    one that was made with other settings than the comparison has now."""
    records = []
    for method in comparison.methods:
        for seed in comparison.seeds:
            path, asked = comparison.record(method, seed), comparison.asked(method)
            record = read_json(path)
            if record is None:
                continue
            changes = differences(record.get("asked", asked), asked)
            if changes := [change for change in changes if not SPEED.match(change)]:
                raise PsrError(
                    f"{path}: made with other settings ({'; '.join(changes[:3])}); set them back, "
                    "`psr-ray compare` again, or give this comparison another name"
                )
            records.append(record)
    return records


def rounded(value: Any) -> Any:
    """The same figures to six places: what is stored does not hang on a processor's last bit."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value


def update_evidence(comparison: CompareConfig, *, check: bool = False) -> tuple[Json, list[Path]]:
    """The figures, and the file if it differed from them; written unless ``check``."""
    evidence = rounded(aggregate(comparison, stored_records(comparison)))
    text = json.dumps(evidence, indent=1) + "\n"
    path = comparison.evidence
    if path.is_file() and path.read_text() == text:
        return evidence, []
    if not check:
        write_text(path, text)
    return evidence, [path]
