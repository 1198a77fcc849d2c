"""Step preferences: one row a pair, grouped by problem, made from complete search records.

A worked row: problem "13 beads … 20 more …", step 2 of a search. ``prompt_ids`` is the solve prompt
followed by the chosen step 1, exactly as sampled, and the opening of step 2 where `prompts.step_stop`
gives one; ``chosen_ids`` and ``rejected_ids`` are the best and the worst candidate of step 2. Training
scores the candidates' tokens only. A candidate ends with an EOS id only where the model ended there.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from psr_ray.storage.files import Row

IDS = pa.list_(pa.int32())
# Folders of a preferences stage.
PAIRS, SOLUTIONS, JUDGED_PAIRS = "pairs", "solutions", "judged"

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
        prefix = prefix + list(step["opening_ids"])
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


CHOSEN_STEPS_SCHEMA = pa.schema([("id", pa.string()), ("prompt_ids", IDS), ("completion_ids", IDS)])


def solution_of(search: Row) -> Row | None:
    """The solution of a finished search: its prompt, then all chosen steps with their openings, in the
    tokens of the search; else None."""
    if search["end"] != "finished":
        return None
    ids: list[int] = []
    for step in search["steps"]:
        if step["kept"] and step["chosen"] is not None:
            ids += [*step["opening_ids"], *step["candidates"][step["chosen"]]["token_ids"]]
    return {"id": search["id"], "prompt_ids": search["prompt_ids"], "completion_ids": ids}
