"""Problems that seed data are made from, with their places; what was left out, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from psr_ray.config import SourceConfig
from psr_ray.data.files import Failures
from psr_ray.data.formats import problem_from
from psr_ray.data.rows import problem_of, problem_row
from psr_ray.data.sources import drawn, placed_rows
from psr_ray.problems import Problem
from psr_ray.storage.files import Row


def problems_of_all(
    sources: Sequence[SourceConfig], seed: int, failures: Failures
) -> Iterator[tuple[Row, Problem]]:
    """The place (file, line, id) and the problem of each of ``num`` records of each source, drawn by
    chance. Where another source has an id already, the source's number goes before it."""
    seen: set[str] = set()
    for number, source in enumerate(sources, start=1):
        rows = placed_rows(
            source, seed, lambda *w: problem_row("solve", problem_from(*w)), failures
        )
        placed = (row | {"file": str(path), "line": line} for path, line, row in rows)
        for row in drawn(placed, source.num, source.seed_in(seed)):
            if row["id"] in seen:
                row["id"] = f"{number}/{row['id']}"
            seen.add(row["id"])
            yield {name: row[name] for name in ("file", "line", "id")}, problem_of(row)


def names_of(sources: Sequence[SourceConfig]) -> str:
    """Paths or kinds of some sources."""
    return ", ".join(source.path or source.kind for source in sources)


def reasons_of(items: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """How often each reason to leave something out occurs."""
    return Counter(item["reason"].split(":")[0] for item in items)
