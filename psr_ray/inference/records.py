"""Rows of the other tasks of engines: a greedy solution, sampled solutions, a judged pair, a text."""

from __future__ import annotations

import pyarrow as pa

from psr_ray.answers import extract_boxed, is_equal, stated_answer
from psr_ray.embedded.arithmetic import all_steps_right
from psr_ray.method.generation import Usage
from psr_ray.method.steps import split_steps
from psr_ray.method.verdicts import Verdict
from psr_ray.problems import JudgedPair
from psr_ray.storage.files import Row

SOLUTION_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("problem", pa.string()),
        ("answer", pa.string()),
        ("text", pa.string()),
        ("predicted", pa.string()),
        ("correct", pa.bool_()),
        ("steps_right", pa.bool_()),  # all of them, where steps can be graded
        ("unboxed", pa.string()),  # the answer stated outside a box, where there is no box
        ("unboxed_correct", pa.bool_()),
        ("finish", pa.string()),
        ("num_steps", pa.int32()),
        ("num_tokens", pa.int64()),
        ("error", pa.string()),
    ]
)


def solution_row(
    problem_id: str,
    problem: str,
    answer: str | None,
    text: str,
    num_tokens: int,
    finish: str,
    plan: str | None = None,
) -> Row:
    """A greedy solution, graded where the answer is known, and its steps where there is a plan."""
    predicted = extract_boxed(text)
    unboxed = None if predicted is not None else stated_answer(text)
    return {
        "id": problem_id,
        "problem": problem,
        "answer": answer,
        "text": text,
        "predicted": predicted,
        "correct": None if answer is None else is_equal(answer, predicted),
        "steps_right": None if plan is None else all_steps_right(plan, split_steps(text)),
        "unboxed": unboxed,
        "unboxed_correct": None if answer is None else is_equal(answer, unboxed),
        "finish": finish,
        "num_steps": len(split_steps(text)),
        "num_tokens": num_tokens,
        "error": None,
    }


SAMPLE = pa.struct(
    [("predicted", pa.string()), ("correct", pa.bool_()), ("num_tokens", pa.int64())]
)
SAMPLES_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("answer", pa.string()),
        ("samples", pa.list_(SAMPLE)),
        ("best", pa.int32()),  # place of the sample that the model's own judge prefers
        ("num_tokens", pa.int64()),
        ("num_judge_tokens", pa.int64()),
        ("error", pa.string()),
    ]
)


def samples_row(
    problem_id: str,
    answer: str | None,
    texts: list[tuple[str, int]],
    best: int | None = None,
    num_judge_tokens: int = 0,
) -> Row:
    """Sampled solutions (text, tokens) of one problem, graded where the answer is known."""
    samples = []
    for text, num_tokens in texts:
        predicted = extract_boxed(text)
        correct = None if answer is None else is_equal(answer, predicted)
        samples.append({"predicted": predicted, "correct": correct, "num_tokens": num_tokens})
    return {
        "id": problem_id,
        "answer": answer,
        "samples": samples,
        "best": best,
        "num_tokens": sum(num_tokens for _, num_tokens in texts),
        "num_judge_tokens": num_judge_tokens,
        "error": None,
    }


JUDGEMENT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("verdict", pa.string()),
        ("first_order", pa.float64()),
        ("second_order", pa.float64()),
        ("num_tokens", pa.int64()),
        ("num_cut_texts", pa.int64()),
        ("error", pa.string()),
    ]
)


def judgement_row(pair: JudgedPair, first: Verdict, second: Verdict, usage: Usage) -> Row:
    """A fixed pair judged in both orders: how far the step shown first wins in each."""
    return {
        "id": pair.problem.id,
        "verdict": pair.verdict,
        "first_order": first.first_wins,
        "second_order": second.first_wins,
        "num_tokens": usage.num_judge_tokens,
        "num_cut_texts": usage.num_cut_texts,
        "error": None,
    }


TEXT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("finish", pa.string()),
        ("num_tokens", pa.int64()),
        ("error", pa.string()),
    ]
)


def text_row(name: str, text: str, num_tokens: int, finish: str) -> Row:
    """A text that a model or a server wrote."""
    return {"id": name, "text": text, "finish": finish, "num_tokens": num_tokens, "error": None}
