"""results/NAME.json: the comparison's figures, from the records that are stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from psr_ray.compare.config import CompareConfig, planned_runs
from psr_ray.compare.statistics import aggregate
from psr_ray.errors import PsrError
from psr_ray.runs import differences
from psr_ray.stages import settings_that_count
from psr_ray.storage.files import Json, read_json, write_text


def stored_records(comparison: CompareConfig) -> list[Json]:
    """The records of the planned methods and seeds, in the comparison's order. Raises ``PsrError`` for
    one that was made with other settings than the comparison has now."""
    records = []
    for run in planned_runs(comparison):
        record = read_json(run.record)
        if record is None:
            continue
        made_with, now = record.get("made_with") or {}, settings_that_count(run.config)
        both = made_with.keys() & now.keys()  # settings that there were then, too
        was, is_now = ({name: found[name] for name in both} for found in (made_with, now))
        if changes := differences(was, is_now):
            raise PsrError(
                f"{run.record}: made with other settings ({'; '.join(changes[:3])}); set them back, "
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
