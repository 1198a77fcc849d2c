"""What engines write: one row a search (kept whole), a greedy solution, a set of sampled solutions,
a judged pair, a probe."""

from __future__ import annotations

from collections.abc import Sequence

from psr_ray.answers import extract_boxed, is_equal, stated_answer
from psr_ray.method.judge import Comparison, Verdict
from psr_ray.method.search import Search
from psr_ray.method.steps import split_steps
from psr_ray.method.truth import right_candidates
from psr_ray.problems import JudgedPair
from psr_ray.storage.files import Row


def search_row(search: Search) -> Row:
    """A search as a row of ``SEARCH_SCHEMA``: all candidates, verdicts, scores, ids, and its end."""
    solution = "\n".join(candidate.text for candidate in search.chosen())
    predicted = extract_boxed(solution)
    steps = []
    for step in search.steps:
        nothing = [None] * len(step.candidates)
        texts = [candidate.text for candidate in step.candidates]
        truth: Sequence[bool | None] = (
            right_candidates(search.problem, step.steps_so_far, texts, search.unit) or nothing
        )
        steps.append(
            {
                "number": step.number,
                "outcome": step.outcome,
                "kept": step.kept,
                "chosen": step.chosen,
                "rejected": step.rejected,
                "num_truncated": step.num_truncated,
                "candidates": [
                    {
                        "text": candidate.text,
                        "token_ids": list(candidate.token_ids),
                        "count": candidate.count,
                        "ended": candidate.ended,
                        "score": score,
                        "is_right": right,
                        "judgement": judgement,
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
        "num_prompt_tokens": search.usage.num_prompt_tokens,
        "num_cached_tokens": search.usage.num_cached_tokens,
        "error": None,
        "steps": steps,
    }


def verdicts_of(step: Row) -> dict[Comparison, Verdict]:
    """The verdicts of a step of a search row."""
    return {
        Comparison(v["first"], v["second"]): Verdict(v["first_wins"], v["text"])
        for v in step["verdicts"]
    }


def solution_row(
    problem_id: str, problem: str, answer: str | None, text: str, num_tokens: int, finish: str
) -> Row:
    """A greedy solution, graded where the answer is known."""
    predicted = extract_boxed(text)
    unboxed = None if predicted is not None else stated_answer(text)
    return {
        "id": problem_id,
        "problem": problem,
        "answer": answer,
        "text": text,
        "predicted": predicted,
        "correct": None if answer is None else is_equal(answer, predicted),
        "unboxed": unboxed,
        "unboxed_correct": None if answer is None else is_equal(answer, unboxed),
        "finish": finish,
        "num_steps": len(split_steps(text)),
        "num_tokens": num_tokens,
        "error": None,
    }


def text_row(name: str, text: str, num_tokens: int, finish: str) -> Row:
    """What a model or a server wrote."""
    return {"id": name, "text": text, "finish": finish, "num_tokens": num_tokens, "error": None}


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


def judgement_row(pair: JudgedPair, first: Verdict, second: Verdict, num_tokens: int) -> Row:
    """A fixed pair judged in both orders: how far the step shown first wins in each."""
    return {
        "id": pair.problem.id,
        "verdict": pair.verdict,
        "first_order": first.first_wins,
        "second_order": second.first_wins,
        "num_tokens": num_tokens,
        "error": None,
    }
