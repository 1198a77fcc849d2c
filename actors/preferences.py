"""Step preferences from the shards of a search: a Ray Data pipeline, a task a shard."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from psr_ray.data.rows import TASK_SCHEMA, output_folder
from psr_ray.inference.refresh import judged_task_rows
from psr_ray.method.preferences import (
    CHOSEN_STEPS_SCHEMA,
    JUDGED_PAIRS,
    PAIRS,
    PREFERENCE_SCHEMA,
    SOLUTIONS,
    preferences_of,
    solution_of,
)
from psr_ray.storage.files import Json
from psr_ray.storage.locations import location
from psr_ray.storage.shards import read_rows, shards, write_shard

# Shards that are read at once.
MAX_TASKS = 16


def build_preferences(searched: Path, folder: Path) -> Json:
    """Write the pairs, the finished solutions and the judged pairs of all searches; returns counts for
    the manifest."""
    import ray.data

    ray.data.DataContext.get_current().raise_original_map_exception = True
    paths = [str(shard) for shard in shards(output_folder(searched, "search"))]

    def of_shard(row: dict[str, Any]) -> dict[str, Any]:
        return shard_preferences(location(row["shard"]), folder)

    # no CPU of its own: where engines have them all, it would have the autoscaler start a node
    rows = ray.data.from_items([{"shard": path} for path in paths])
    built = rows.map(of_shard, num_cpus=0, concurrency=MAX_TASKS).take_all()
    counts = Counter[str]()
    for row in built:
        counts.update(row)
    graded, known = counts["graded"], counts["judged_known"]
    return {
        "num_pairs": counts["pairs"],
        "num_solutions": counts["solutions"],
        "num_judged": counts["judged"],
        "judged_right_share": counts["judged_right"] / known if known else None,
        "chosen_right_share": counts["chosen_right"] / graded if graded else None,
        "rejected_right_share": counts["rejected_right"] / graded if graded else None,
    }


def shard_preferences(shard: Path, folder: Path) -> dict[str, int]:
    """The pairs, solutions and judged pairs of one shard of searches as a shard each; returns what was
    counted."""
    searches = list(read_rows([shard]))
    rows = [pair for search in searches for pair in preferences_of(search)]
    solutions = [row for row in map(solution_of, searches) if row is not None]
    if solutions:
        write_shard(folder / SOLUTIONS, solutions, CHOSEN_STEPS_SCHEMA)
    if rows:
        write_shard(folder / PAIRS, rows, PREFERENCE_SCHEMA)
    judged = [row for search in searches for row in judged_task_rows(search)]
    if judged:
        write_shard(folder / JUDGED_PAIRS, judged, TASK_SCHEMA)
    labels = [one["is_right"] for search in searches for one in search.get("judged") or []]
    return {
        "pairs": len(rows),
        "solutions": len(solutions),
        "graded": sum(row["chosen_is_right"] is not None for row in rows),
        "chosen_right": sum(bool(row["chosen_is_right"]) for row in rows),
        "rejected_right": sum(bool(row["rejected_is_right"]) for row in rows),
        "judged": len(labels),
        "judged_known": sum(label is not None for label in labels),
        "judged_right": sum(map(bool, labels)),
    }
