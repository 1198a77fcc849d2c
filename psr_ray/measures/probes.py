"""Probes: steps of M1's searches that every later model ranks again, its own step among them.

They show two things that a single model's figures cannot: whether the judge still ranks as it did
(Kendall's tau against M(k-1) and M1; compare CREAM, arXiv 2410.12735), and whether what it rewards
has become better in truth (self-reward against true reward, both against M1's candidates).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations
from pathlib import Path
from statistics import stdev

from psr_ray.data.rows import output_folder
from psr_ray.method.verdicts import order
from psr_ray.storage.files import Row
from psr_ray.storage.shards import read_rows, shards

PROBES = "probes.parquet"

Rankings = Mapping[str, Sequence[float]]


def probes_of(folder: Path, num: int, seed: int) -> list[Row]:
    """At most ``num`` task rows from the searches in an evaluation's folder, drawn by ``seed``:
    steps with at least two different candidates. M1's scores travel with the candidates."""
    everything = [
        probe
        for search in read_rows(shards(output_folder(folder, "search")))
        for probe in probes_in(search)
    ]
    everything.sort(key=lambda row: str(row["id"]))
    random.Random(f"probes/{seed}").shuffle(everything)
    return everything[:num]


def probes_in(search: Row) -> Iterator[Row]:
    """The probes of one search row."""
    path: list[Row] = []
    path_ids: list[list[int]] = [
        search["prompt_ids"]
    ]  # the prompt, then each step with its opening
    for index, step in enumerate(search["steps"] or []):
        if len(step["candidates"]) > 1:
            yield {
                "task": "probe",
                "id": f"{search['id']}#{index}",
                "problem": search["problem"],
                "answer": search["answer"],
                "plan": search["plan"],
                "steps_so_far": [candidate["text"] for candidate in path],
                "prefix_ids": [*chain(*path_ids), *step["opening_ids"]],
                "candidates": step["candidates"],
            }
        if step["outcome"] == "rolled_back":
            path, path_ids = path[:-1], path_ids[: max(len(path), 1)]
        elif step["chosen"] is not None:
            chosen = step["candidates"][step["chosen"]]
            path = [*path, chosen]
            path_ids = [*path_ids, [*step["opening_ids"], *chosen["token_ids"]]]


def first_rankings(folder: Path) -> Rankings:
    """M1's scores of the candidates of each probe."""
    return {
        row["id"]: [candidate["score"] for candidate in row["candidates"]]
        for row in read_rows([folder / PROBES])
    }


def kendall_tau(a: Rankings, b: Rankings) -> float | None:
    """Kendall's tau-b over the pairs of candidates within each probe that both rankings have.

    1: the same order everywhere, 0: unrelated, -1: reversed; ties count as in tau-b. None where one
    of the rankings orders nothing at all.
    """
    agreement = orders_a = orders_b = 0
    for name in sorted(a.keys() & b.keys()):
        for i, j in combinations(range(len(a[name])), 2):
            in_a, in_b = order(a[name][i], a[name][j]), order(b[name][i], b[name][j])
            agreement += in_a * in_b
            orders_a += in_a != 0
            orders_b += in_b != 0
    return agreement / math.sqrt(orders_a * orders_b) if orders_a and orders_b else None


def finished_probes(folder: Path) -> list[Row]:
    """The probe rows of a later model's evaluation, without those that failed."""
    rows = read_rows(shards(output_folder(folder, "probe")))
    return [row for row in rows if row["error"] is None]


def rankings_of(rows: Sequence[Row]) -> Rankings:
    """A later model's scores of the candidates of each probe."""
    return {row["id"]: row["scores"] for row in rows}


def probe_figures(folder: Path, first: Path, before: Path) -> Row:
    """Figures of a model's probes: agreement with M1 and with the model before, self-reward.

    ``first`` and ``before`` are the evaluation folders of M1 and of M(k-1). Rewards are win rates in
    [0, 1] of the model's own step against M1's candidates; M1 itself stands at about one half.
    """
    rows = finished_probes(folder)
    if not rows:
        return {}
    mine, of_first = rankings_of(rows), first_rankings(first)
    of_before = of_first if before == first else rankings_of(finished_probes(before))

    def mean(name: str, key: str) -> Row:
        known = [row[key] for row in rows if row[key] is not None]
        error = stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None
        return {name: sum(known) / len(known) if known else None, f"{name}_se": error}

    return {
        "num_probes": len(rows),
        "tau_before": kendall_tau(mine, of_before),
        "tau_first": kendall_tau(mine, of_first),
        **mean("self_reward", "own_win"),
        **mean("true_reward", "own_true_win"),
    }
