"""Where a solution states its answer."""

from __future__ import annotations

import re

STATED = re.compile(r"\banswer\s*(?:is|are|was|:|=)\s*:?", re.IGNORECASE)
BRACES = re.compile(r"\\boxed\{|[{}]")
# Where an answer ends: at a full stop that no digit follows, a reason, the end of its formula or line.
END = re.compile(r"\.(?:\s|$)|\*\*|\$|\\\]|\\\)|,\s+(?:since|because|as|so)\b|\n")
NUMBER = re.compile(r"(?:(?<![\d)}])-)?(?:(?:\d[\d,]*\d|\d)(?:\.\d+)?|\.\d+)(?:/\d+)?%?")
# Characters that may come before an answer in its sentence.
BEFORE = re.compile(r"(?:[\s*:$]|\\\[|\\\()+")


def extract_boxed(solution: str) -> str | None:
    """The content of the last complete ``\\boxed{...}``, braces balanced; None where there is none."""
    last, content, is_open = -1, None, list[tuple[int, bool]]()
    for brace in BRACES.finditer(solution):
        if brace[0] != "}":
            is_open.append((brace.end(), brace[0] != "{"))
        elif is_open:
            start, is_box = is_open.pop()
            if is_box and start > last:  # of two, one in the other, the inner one
                last, content = start, solution[start : brace.start()].strip()
    return content


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
