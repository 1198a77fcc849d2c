"""Step preferences: one row a pair, grouped by problem, made from searches kept whole.

A worked row: problem "13 beads … 20 more …", step 2 of a search. ``prompt_ids`` is the solve prompt
followed by the chosen step 1, exactly as sampled; ``chosen_ids`` and ``rejected_ids`` are the best
and the worst candidate of step 2. Training scores the candidates' tokens only. An EOS id stands at
the end of a candidate only where the model ended there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from psr_ray.judge import VerdictCounts
from psr_ray.records import IDS, verdicts_of
from psr_ray.rows import Row

# Folders of a preferences stage.
PAIRS, SOLUTIONS = "pairs", "solutions"

PREFERENCE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("problem_id", pa.string()),
        ("step_number", pa.int32()),
        ("prompt_ids", IDS),
        ("chosen_ids", IDS),
        ("rejected_ids", IDS),
        ("chosen_text", pa.string()),
        ("rejected_text", pa.string()),
        ("chosen_score", pa.float64()),
        ("rejected_score", pa.float64()),
        ("chosen_is_right", pa.bool_()),
        ("rejected_is_right", pa.bool_()),
    ]
)


def preferences_of(search: Row) -> Iterator[Row]:
    """The step preferences of one search row: its kept steps that have a chosen and a rejected."""
    prefix = list(search["prompt_ids"])
    for step in search["steps"] or []:
        if not step["kept"] or step["chosen"] is None:
            continue
        chosen = step["candidates"][step["chosen"]]
        if step["rejected"] is not None:
            rejected = step["candidates"][step["rejected"]]
            yield {
                "id": f"{search['id']}#{step['number']}",
                "problem_id": search["id"],
                "step_number": step["number"],
                "prompt_ids": prefix,
                "chosen_ids": chosen["token_ids"],
                "rejected_ids": rejected["token_ids"],
                "chosen_text": chosen["text"],
                "rejected_text": rejected["text"],
                "chosen_score": chosen["score"],
                "rejected_score": rejected["score"],
                "chosen_is_right": chosen["is_right"],
                "rejected_is_right": rejected["is_right"],
            }
        prefix = prefix + list(chosen["token_ids"])


SOLUTION_SCHEMA = pa.schema([("id", pa.string()), ("prompt_ids", IDS), ("completion_ids", IDS)])


def solution_of(search: Row) -> Row | None:
    """The solution of a finished search: its prompt and all chosen steps, as sampled; else None."""
    if search["end"] != "finished":
        return None
    steps = [step for step in search["steps"] if step["kept"] and step["chosen"] is not None]
    ids = [i for step in steps for i in step["candidates"][step["chosen"]]["token_ids"]]
    return {"id": search["id"], "prompt_ids": search["prompt_ids"], "completion_ids": ids}


@dataclass
class SearchFigures:
    """What a report says of a set of searches."""

    num_searches: int = 0
    num_errors: int = 0
    num_correct: int = 0
    num_rollbacks: int = 0
    num_steps: int = 0
    num_candidates: int = 0
    num_distinct: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_sampled_tokens: int = 0
    num_judge_tokens: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    verdicts: VerdictCounts = field(default_factory=VerdictCounts)

    def add(self, search: Row) -> None:
        self.num_searches += 1
        if search["error"] is not None:
            self.num_errors += 1
            return
        self.num_correct += bool(search["correct"])
        self.num_rollbacks += search["num_rollbacks"]
        self.num_prompt_tokens += search["num_prompt_tokens"]
        self.num_cached_tokens += search["num_cached_tokens"]
        self.num_sampled_tokens += search["num_sampled_tokens"]
        self.num_judge_tokens += search["num_judge_tokens"]
        self.ends[search["end"]] = self.ends.get(search["end"], 0) + 1
        for step in search["steps"]:
            candidates = step["candidates"]
            self.num_steps += 1
            self.num_distinct += len(candidates)
            self.num_candidates += sum(c["count"] for c in candidates)
            if len(candidates) < 2:
                continue
            truth = [c["is_right"] for c in candidates]
            self.verdicts.add(
                verdicts_of(step),
                tie=step["outcome"] == "rolled_back",
                is_right=None if None in truth else truth,
            )

    def summary(self) -> dict[str, float | int | None | dict[str, int]]:
        """Figures by name; a share is None where there was nothing to measure."""

        def per(part: float, whole: float) -> float | None:
            return part / whole if whole else None

        good = self.num_searches - self.num_errors
        return {
            "num_searches": self.num_searches,
            "num_errors": self.num_errors,
            "search_accuracy": per(self.num_correct, good),
            "rollbacks_per_search": per(self.num_rollbacks, good),
            "distinct_candidates_per_step": per(self.num_distinct, self.num_steps),
            "prefix_cache_hit_rate": per(self.num_cached_tokens, self.num_prompt_tokens),
            "num_sampled_tokens": self.num_sampled_tokens,
            "num_judge_tokens": self.num_judge_tokens,
            "num_verdicts": self.verdicts.num_verdicts,
            "num_gradable_verdicts": self.verdicts.num_gradable,
            "ends": dict(sorted(self.ends.items())),
            **self.verdicts.shares(),
        }


def figures_of(searches: Iterable[Row]) -> SearchFigures:
    """Add up a set of search rows."""
    figures = SearchFigures()
    for search in searches:
        figures.add(search)
    return figures
