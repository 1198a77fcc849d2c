"""Final answers: the last ``\\boxed{}`` of a solution, compared with math-verify (gold first)."""

from __future__ import annotations

import re
from functools import lru_cache

from psr_ray.data.grading import equal

NUMBER = re.compile(r"-?\d+(\.\d+)?")


def extract_boxed(solution: str) -> str | None:
    """The content of the last whole ``\\boxed{...}``, braces balanced; None where there is none."""
    start = solution.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for position in range(start + len("\\boxed"), len(solution)):
        depth += {"{": 1, "}": -1}.get(solution[position], 0)
        if depth == 0:
            return solution[start + len("\\boxed{") : position].strip()
    return None


def plain(answer: str) -> str:
    """Without spaces, dollar signs, thousands commas."""
    return re.sub(r"(?<=\d),(?=\d{3})", "", answer.replace("$", "").replace(" ", "")).strip()


def is_equal(gold: str, answer: str | None) -> bool:
    """Whether an extracted answer equals the gold one.

    Equal texts and plain numbers are settled here; all else goes to math-verify (``grading``).
    """
    if answer is None:
        return False
    gold, answer = plain(gold), plain(answer)
    if gold == answer:
        return True
    if NUMBER.fullmatch(gold) and NUMBER.fullmatch(answer):
        return float(gold) == float(answer)
    return _verified(gold, answer)


@lru_cache(maxsize=4096)
def _verified(gold: str, answer: str) -> bool:
    return equal(gold, answer)
