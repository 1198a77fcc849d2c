"""EFT data: pairs of sibling steps with known values, judged, kept where judge and values agree.

Pairs come from step trees (``psr_ray.inference.rollouts``) or from PRM800K (arXiv 2305.20050). A judge
sees each in both orders; it must prefer the better step in both (paper, arXiv 2503.03746, 3.1). With
`judge.mode: shared` it first writes what the run's judge will write: the step worked out, critiques.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psr_ray.data.formats import clean
from psr_ray.data.rows import pair_row
from psr_ray.method.judge import parse_verdict
from psr_ray.method.judges import compared_texts, pair_texts
from psr_ray.method.prompts import PromptBuilder
from psr_ray.problems import JudgedPair, Problem
from psr_ray.storage.files import Row


@dataclass(frozen=True)
class ValuedPair:
    """Two sibling steps, the better one first. ``problem.id`` is the pair's own."""

    problem: Problem
    steps_so_far: list[str]
    better: str
    worse: str
    gap: float


def tree_pairs(tree: Row, min_gap: float) -> Iterator[ValuedPair]:
    """Best against worst candidate of each step of a tree, where their values differ by ``min_gap``."""
    for step in tree["steps"] or ():
        candidates = step["candidates"]
        best = max(candidates, key=lambda c: (c["value"], c["count"]))
        worst = min(candidates, key=lambda c: (c["value"], -c["count"]))
        gap = best["value"] - worst["value"]
        if gap >= min_gap:
            name = f"{tree['id']}/step-{step['number']}"
            problem = Problem(id=name, text=tree["problem"], answer=tree["answer"])
            so_far = list(step["steps_so_far"])
            yield ValuedPair(problem, so_far, best["text"], worst["text"], gap)


def prm800k_pairs(record: Row, path: Path, line: int, prefix: str = "") -> list[ValuedPair]:
    """Pairs of a record of PRM800K: at each step a completion rated 1 against one rated -1, after the
    steps that its labeler chose; ``prefix`` stands before their ids. ``ValueError`` with the reason
    where it is no such record."""
    try:
        question, steps = record["question"], record["label"]["steps"]
        text = clean(question["problem"]).strip()
        answer = clean(question["ground_truth_answer"])
        pairs, so_far = list[ValuedPair](), list[str]()
        for number, step in enumerate(steps, start=1):
            by_rating = {
                c["rating"]: f"Step {number}: {clean(c['text'])}" for c in step["completions"]
            }
            if 1 in by_rating and -1 in by_rating:
                problem = Problem(
                    id=f"{prefix}{path.stem}/{line}/step-{number}", text=text, answer=answer
                )
                pairs.append(ValuedPair(problem, list(so_far), by_rating[1], by_rating[-1], 1.0))
            place = step.get("chosen_completion")
            taken = step["completions"][place] if place is not None else step["human_completion"]
            if taken is None:
                break
            so_far.append(f"Step {number}: {clean(taken['text'])}")
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"no record of PRM800K: {type(error).__name__} {error}") from error
    return pairs


@dataclass(frozen=True)
class Written:
    """What the teacher wrote about a pair before it judged it; empty where it was not asked."""

    work: str = ""
    critiques: tuple[str, str] = ("", "")
    """Of the better and of the worse step."""


def work_questions(pairs: Iterable[ValuedPair], prompts: PromptBuilder) -> dict[str, str]:
    """The question for each pair's step, by the pair's id."""
    return {
        pair.problem.id: prompts.judging_text(
            "work", {"problem": pair.problem.text, "steps_so_far": pair.steps_so_far}
        )
        for pair in pairs
    }


def critique_questions(
    pairs: Iterable[ValuedPair], prompts: PromptBuilder, works: Mapping[str, str]
) -> dict[str, str]:
    """The questions for a critique of the better (A) and the worse step (B) of each pair."""
    asked = work_questions(pairs, prompts)
    return {
        f"{pair.problem.id}#{letter}": in_one_text(
            asked[pair.problem.id],
            works[pair.problem.id],
            prompts.judging_text("critique", {"step": step}),
        )
        for pair in pairs
        if works.get(pair.problem.id)
        for letter, step in zip("AB", (pair.better, pair.worse), strict=True)
    }


def judge_questions(
    pairs: Iterable[ValuedPair], prompts: PromptBuilder, written: Mapping[str, Written] | None
) -> dict[str, str]:
    """The questions for a verdict in both orders, by the pair's id and the letter of the better step.
    With what was ``written`` they are those of `judge.mode: shared`; a pair without is left out."""
    asked = work_questions(pairs, prompts) if written is not None else {}
    questions = {}
    for pair in pairs:
        name = pair.problem.id
        if written is not None and name not in written:
            continue
        for right in "AB":
            a, b = in_order(pair, right)
            if written is None:
                texts = pair_texts(pair.problem.text, pair.steps_so_far, a, b)
                questions[f"{name}#{right}"] = prompts.judging_text("judge", texts)
            else:
                noted = written[name]
                critiques = dict(zip((pair.better, pair.worse), noted.critiques, strict=True))
                questions[f"{name}#{right}"] = in_one_text(
                    asked[name],
                    noted.work,
                    prompts.judging_text("shared", compared_texts(a, b, critiques)),
                )
    return questions


def in_one_text(*parts: str) -> str:
    """A conversation as one message, for a teacher that is asked once."""
    return "\n\n".join(part.strip() for part in parts)


def in_order(pair: ValuedPair, verdict: str) -> tuple[str, str]:
    """The steps as A and B, so that ``verdict`` is the right one."""
    return (pair.better, pair.worse) if verdict == "A" else (pair.worse, pair.better)


def judged(
    pair: ValuedPair, answers: Mapping[str, Row | None], rng: random.Random, noted: Written
) -> JudgedPair | str:
    """The pair with one of its two judgements, at random; the reason where it is not kept.

    ``answers`` are what the judge wrote where A, and where B, is the better step.
    """
    for row in answers.values():
        if row is None or row["error"]:
            return "no judgement"
    found = {right: parse_verdict(answers[right]["text"]).first_wins for right in answers}  # type: ignore[index]
    if None in found.values():
        return "no verdict"
    agrees = [found[right] == float(right == "A") for right in "AB"]
    if not all(agrees):
        return "judge against values" if not any(agrees) else "judge changes with the order"
    verdict = rng.choice("AB")
    text = answers[verdict]["text"]  # type: ignore[index]
    a, b = in_order(pair, verdict)
    critiques = noted.critiques if verdict == "A" else noted.critiques[::-1]
    return JudgedPair(pair.problem, pair.steps_so_far, a, b, text, verdict, noted.work, *critiques)


def split_by_problem(
    pairs: Sequence[JudgedPair], num_test: int, seed: int
) -> tuple[list[Row], list[Row]]:
    """Training and test rows; all pairs of a problem on one side, at most a fifth in the test."""
    num_test = min(num_test, len(pairs) // 5)
    sizes = Counter(pair.problem.text for pair in pairs)
    texts = sorted(sizes)
    random.Random(f"eft/{seed}").shuffle(texts)
    pairs = random.Random(f"pairs/{seed}").sample(pairs, len(pairs))
    chosen, size = set[str](), 0
    for text in texts:
        if size + sizes[text] <= num_test:
            chosen.add(text)
            size += sizes[text]
    rows: tuple[list[Row], list[Row]] = ([], [])
    for pair in pairs:
        rows[pair.problem.text in chosen].append(pair_row(pair))
    return rows


def keep(
    pairs: Iterable[ValuedPair],
    judgements: Mapping[str, Row],
    seed: int,
    written: Mapping[str, Written] | None = None,
) -> tuple[list[JudgedPair], list[dict[str, Any]]]:
    """The pairs to learn from, and the others with the reason."""
    kept, rejected = list[JudgedPair](), list[dict[str, Any]]()
    for pair in pairs:
        name = pair.problem.id
        rng = random.Random(f"{seed}/{name}")
        answers = {right: judgements.get(f"{name}#{right}") for right in "AB"}
        result = judged(pair, answers, rng, (written or {}).get(name, Written()))
        if isinstance(result, str):
            rejected.append({"id": name, "gap": pair.gap, "reason": result})
        else:
            kept.append(result)
    return kept, rejected
