"""Where a solution states its answer."""

from __future__ import annotations

import re

STATED = re.compile(r"\banswer\s*(?:is|are|was|:|=)\s*:?", re.IGNORECASE)
# Where an answer ends: at a full stop that no digit follows, a reason, the end of its formula or line.
END = re.compile(r"\.(?:\s|$)|\*\*|\$|\\\]|\\\)|,\s+(?:since|because|as|so)\b|\n")
NUMBER = re.compile(r"(?:(?<![\d)}])-)?(?:(?:\d[\d,]*\d|\d)(?:\.\d+)?|\.\d+)(?:/\d+)?%?")
# Characters that may come before an answer in its sentence.
BEFORE = re.compile(r"(?:[\s*:$]|\\\[|\\\()+")


def extract_boxed(solution: str) -> str | None:
    """The content of the last complete ``\\boxed{...}``, braces balanced; None where there is none."""
    start = len(solution)
    while (start := solution.rfind("\\boxed{", 0, start)) >= 0:
        depth = 0
        for position in range(start + len("\\boxed"), len(solution)):
            depth += {"{": 1, "}": -1}.get(solution[position], 0)
            if depth == 0:
                return solution[start + len("\\boxed{") : position].strip()
    return None


def stated_answer(solution: str) -> str | None:
    """The answer that a solution without a box states: what follows its last "answer is" or "answer:",
    else its last number; None where it holds neither.

    The usual fall-back of maths evaluations (Qwen2.5-Math's, lm-evaluation-harness's
    "flexible-extract"). It guesses, so its finds are counted separately.
    """
    stated = list(STATED.finditer(solution))
    if stated:
        rest = solution[stated[-1].end() :]
        found = BEFORE.match(rest)
        answer = END.split(rest[found.end() if found else 0 :])[0].strip(" *")
        if answer:
            return answer
    numbers: list[str] = NUMBER.findall(solution)
    return numbers[-1] if numbers else None
