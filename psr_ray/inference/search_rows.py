"""The row of a search: all candidates, verdicts, scores and token ids, rolled-back steps included."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from psr_ray.answers import extract_boxed, is_equal
from psr_ray.inference.refresh import JUDGED
from psr_ray.method.judge import Notes
from psr_ray.method.preferences import IDS
from psr_ray.method.search import Search
from psr_ray.method.truth import right_candidates
from psr_ray.method.verdicts import Comparison, Verdict
from psr_ray.storage.files import Row

CANDIDATE = pa.struct(
    [
        ("text", pa.string()),
        ("token_ids", IDS),
        ("count", pa.int32()),
        ("ended", pa.bool_()),
        ("score", pa.float64()),
        ("is_right", pa.bool_()),
        ("judgement", pa.string()),
        ("critique", pa.string()),
    ]
)
VERDICT = pa.struct(
    [
        ("first", pa.int32()),
        ("second", pa.int32()),
        ("first_wins", pa.float64()),
        ("text", pa.string()),
        ("mass", pa.float64()),  # probability of both letters, where it was read
    ]
)
STEP = pa.struct(
    [
        ("number", pa.int32()),
        ("opening_ids", IDS),
        ("outcome", pa.string()),
        ("tied", pa.bool_()),
        ("spent", pa.bool_()),
        ("kept", pa.bool_()),
        ("chosen", pa.int32()),
        ("rejected", pa.int32()),
        ("num_truncated", pa.int32()),
        ("work", pa.string()),  # the step as the judge worked it out
        ("candidates", pa.list_(CANDIDATE)),
        ("verdicts", pa.list_(VERDICT)),
    ]
)
SEARCH_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("problem", pa.string()),
        ("answer", pa.string()),
        ("plan", pa.string()),
        ("prompt_ids", IDS),
        ("end", pa.string()),
        ("predicted", pa.string()),
        ("correct", pa.bool_()),
        ("num_rollbacks", pa.int32()),
        ("num_sampled_tokens", pa.int64()),
        ("num_judge_tokens", pa.int64()),  # work, critiques and comparisons together
        ("num_work_tokens", pa.int64()),
        ("num_critique_tokens", pa.int64()),
        ("num_compare_tokens", pa.int64()),
        ("num_thinking_tokens", pa.int64()),  # of the judge's
        ("num_cut_texts", pa.int64()),  # texts of the judge that were cut off, or empty
        ("num_refresh_tokens", pa.int64()),  # of what `judged` took, which is in no other number
        ("num_prompt_tokens", pa.int64()),
        ("num_cached_tokens", pa.int64()),
        ("error", pa.string()),
        ("steps", pa.list_(STEP)),
        ("judged", pa.list_(JUDGED)),  # pairs for the judge to learn from (`refresh`)
    ]
)


def search_row(search: Search, judged: Sequence[Row] = (), num_refresh_tokens: int = 0) -> Row:
    """A search as a row of ``SEARCH_SCHEMA``: all candidates, verdicts, scores, ids, and its end; with
    the pairs that were judged again."""
    solution = "\n".join(candidate.text for candidate in search.chosen())
    predicted = extract_boxed(solution)
    steps = []
    for step in search.steps:
        nothing, notes = [None] * len(step.candidates), step.notes or Notes("", [])
        texts = [candidate.text for candidate in step.candidates]
        truth: Sequence[bool | None] = (
            right_candidates(search.problem, step.steps_so_far, texts, search.unit) or nothing
        )
        steps.append(
            {
                "number": step.number,
                "opening_ids": list(step.opening_ids),
                "outcome": step.outcome,
                "tied": step.is_tied,
                "spent": step.is_spent,
                "kept": step.kept,
                "chosen": step.chosen,
                "rejected": step.rejected,
                "num_truncated": step.num_truncated,
                "work": notes.work,
                "candidates": [
                    {
                        "text": candidate.text,
                        "token_ids": list(candidate.token_ids),
                        "count": candidate.count,
                        "ended": candidate.ended,
                        "score": score,
                        "is_right": right,
                        "judgement": judgement,
                        "critique": notes.critiques.get(candidate.text),
                    }
                    for candidate, score, right, judgement in zip(
                        step.candidates,
                        step.scores,
                        truth,
                        step.judgements or nothing,
                        strict=True,
                    )
                ],
                "verdicts": [
                    {
                        "first": comparison.first,
                        "second": comparison.second,
                        "first_wins": verdict.first_wins,
                        "text": verdict.text,
                        "mass": verdict.mass,
                    }
                    for comparison, verdict in step.verdicts.items()
                ],
            }
        )
    answer = search.problem.answer
    return {
        "id": search.problem.id,
        "problem": search.problem.text,
        "answer": answer,
        "plan": search.problem.plan,
        "prompt_ids": list(search.prompt_ids),
        "end": search.end,
        "predicted": predicted,
        "correct": None if answer is None else is_equal(answer, predicted),
        "num_rollbacks": search.num_rollbacks,
        "num_sampled_tokens": search.usage.num_sampled_tokens,
        "num_judge_tokens": search.usage.num_judge_tokens,
        "num_work_tokens": search.usage.num_work_tokens,
        "num_critique_tokens": search.usage.num_critique_tokens,
        "num_compare_tokens": search.usage.num_compare_tokens,
        "num_thinking_tokens": search.usage.num_thinking_tokens,
        "num_cut_texts": search.usage.num_cut_texts,
        "num_refresh_tokens": num_refresh_tokens,
        "num_prompt_tokens": search.usage.num_prompt_tokens,
        "num_cached_tokens": search.usage.num_cached_tokens,
        "error": None,
        "steps": steps,
        "judged": list(judged),
    }


def verdicts_of(step: Row) -> dict[Comparison, Verdict]:
    """The verdicts of a step of a search row, of an earlier version too."""
    return {
        Comparison(v["first"], v["second"]): Verdict(v["first_wins"], v["text"], mass=v.get("mass"))
        for v in step["verdicts"]
    }
