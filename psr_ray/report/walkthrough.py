"""Searches for the report's reader to walk through: steps, candidates, verdicts, what was chosen."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from psr_ray.data.rows import output_folder
from psr_ray.inference.search_rows import verdicts_of
from psr_ray.measures.verdict_counts import VerdictCounts
from psr_ray.storage.files import Row
from psr_ray.storage.shards import read_rows, shards

# Characters of all searches in a report: a browser opens that at once.
MOST_CHARACTERS = 4_000_000
# Characters of a judge's text: its end, where the verdict stands.
JUDGE_CHARACTERS = 500
# Searches of a stage that are considered.
MOST_SEARCHES = 2_000


def end_of(text: str | None) -> str:
    """The last part of a text."""
    text = text or ""
    return text if len(text) <= JUDGE_CHARACTERS else "…" + text[-JUDGE_CHARACTERS:]


def num_flips(step: Row) -> int:
    """Pairs of a step whose two orders name the same position."""
    counts = VerdictCounts()
    sampled = [candidate["count"] for candidate in step["candidates"]]
    counts.add(sampled, verdicts_of(step), tie=False, is_right=None)
    return counts.num_flips


def shown_step(step: Row) -> dict[str, Any]:
    """A step of a search row, as the page needs it."""
    kept = ("number", "outcome", "tied", "kept", "chosen", "rejected")
    names = ("text", "count", "ended", "score", "is_right")
    return {
        **{name: step.get(name) for name in kept},
        "truncated": step["num_truncated"],
        "flips": num_flips(step),
        "work": end_of(step.get("work")),
        "candidates": [
            {name: candidate[name] for name in names}
            | {"said": end_of(candidate["judgement"] or candidate.get("critique"))}
            for candidate in step["candidates"]
        ],
        "verdicts": [
            [v["first"], v["second"], v["first_wins"], end_of(v["text"])] for v in step["verdicts"]
        ],
    }


def shown_search(row: Row, model: str) -> dict[str, Any]:
    """A search row, as the page needs it, with what its reader may filter by."""
    steps = [shown_step(step) for step in row["steps"] or []]
    names = ("id", "problem", "answer", "predicted", "correct", "end", "error")
    return {
        **{name: row[name] for name in names},
        "model": model,
        "steps": steps,
        "flips": sum(step["flips"] for step in steps),
        "ties": sum(bool(step["tied"]) for step in steps),
        "failed": bool(row["error"]) or row["end"] != "finished",
        "wrong": row["correct"] is False,
    }


def in_turn(groups: Sequence[Iterable[Any]]) -> Iterator[Any]:
    """One of each group, again and again, until all are used up."""
    iterators = [iter(group) for group in groups]
    while iterators:
        left = []
        for iterator in iterators:
            for item in iterator:
                yield item
                left.append(iterator)
                break
        iterators = left


def searches_of(stages: Sequence[tuple[str, Path]], most: int = MOST_CHARACTERS) -> dict[str, Any]:
    """Searches of some models, as many as fit, evenly over models and over what is to be seen: failures,
    ties, flips, wrong and other answers. ``num`` is how many there are."""
    groups, num = list[list[dict[str, Any]]](), 0
    for model, folder in stages:
        kinds: dict[str, list[dict[str, Any]]] = {}
        for row in read_rows(shards(output_folder(folder, "search"))):
            num += 1
            if sum(map(len, kinds.values())) >= MOST_SEARCHES:
                continue
            search = shown_search(row, model)
            seen = [kind for kind in ("failed", "ties", "flips", "wrong") if search[kind]]
            kinds.setdefault(seen[0] if seen else "plain", []).append(search)
        groups.append(list(in_turn(list(kinds.values()))))
    shown, size = list[dict[str, Any]](), 0
    for search in in_turn(groups):
        size += len(json.dumps(search, ensure_ascii=False))
        if size > most and shown:
            break
        shown.append(search)
    order = {model: place for place, (model, _) in enumerate(stages)}
    shown.sort(key=lambda search: order[search["model"]])
    return {"num": num, "searches": shown}


def as_script(value: Any) -> str:
    """JSON that is safe inside a script element, whatever its texts hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
