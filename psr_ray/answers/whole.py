"""Whether math-verify read all of an answer, and what it would take for the same though it is not.

Its parser leaves out what it does not know (``5 \\star 3`` is ``3``, ``y'`` is ``y``), so two answers
may be equal by what is left of them. What can be changed in an answer without a change of what was
read of it, was not read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

ENVIRONMENT = re.compile(r"\\(?:begin|end)\{\w+\}")
# Tokens that the parser may leave out of an answer; it misses no bracket and no operator.
TOKEN = re.compile(r"\\[a-zA-Z]+|\d+(?:\.\d+)?|\.\d+|[a-zA-Z]|[^\s\\\d{}()\[\].,;+\-*/^_=<>|&$]")
# Commands that change only the look, and ones that are always read.
KNOWN = {
    *("\\cdot", "\\mathbf", "\\mathrm", "\\mathit", "\\mathcal", "\\boldsymbol"),
    *("\\frac", "\\sqrt", "\\left", "\\right"),
}
# LaTeX that the parser turns into a class of another name.
READ_AS = {
    "Exp1": ["e"],
    "exp": ["e"],
    "ImaginaryUnit": ["i"],
    "Infinity": ["\\infty"],
    "log": ["\\log", "\\ln"],
    "floor": ["\\lfloor", "\\rfloor"],
    "factorial": ["!"],
    "binomial": ["\\binom"],
    "Product": ["\\prod"],
    "Integral": ["\\int", "d"],
    "ceiling": ["\\lceil", "\\rceil"],
    "asin": ["\\arcsin"],
    "acos": ["\\arccos"],
}
COMMAND_OR_LETTER = re.compile(r"\\[a-zA-Z]+|[a-zA-Z]")


def read_whole(text: str, read: Callable[[str], list[Any]]) -> bool:
    """Whether nothing of a text was left out by ``read``, which is asked again for the text with
    each part changed of which there is no trace in what it read."""
    before = _expression(read(text))
    traces = Counter(_traces(before))
    rest = ENVIRONMENT.sub(lambda found: " " * len(found[0]), text)
    tokens = [found for found in TOKEN.finditer(rest) if found[0] not in KNOWN]
    missing = Counter(found[0].lower() for found in tokens) - traces
    for found in tokens:
        if found[0].lower() in missing:
            changed = f"{text[: found.start()]}{_other(found[0], text)}{text[found.end() :]}"
            if _expression(read(changed)) == before:
                return False
    return True


def _expression(parsed: list[Any]) -> Any:
    """The parsed answer as an expression or, failing that, as text; None for nothing."""
    first = parsed[0] if parsed else None
    return "".join(first.split()) if isinstance(first, str) else first


def _traces(expression: Any) -> Iterator[str]:
    """Names and numbers in an expression, as often as they are there."""
    if isinstance(expression, str):
        return
    kind = type(expression).__name__
    if getattr(expression, "is_Symbol", False):
        words = re.findall(r"[a-zA-Z]+|\d+", expression.name.lower())
        yield from (f"\\{word}" if len(word) > 1 and word.isalpha() else word for word in words)
    elif getattr(expression, "is_Rational", False):
        yield str(abs(expression.p))
        yield from [str(expression.q)] * (expression.q != 1)
    else:
        yield from READ_AS.get(kind, [kind if len(kind) == 1 else f"\\{kind.lower()}"])
    entries = getattr(expression, "flat", None)  # of a matrix, whose arguments begin with its size
    for part in entries() if entries is not None else getattr(expression, "args", ()):
        yield from _traces(part)


def _other(token: str, text: str) -> str:
    """Another number or letter, nothing for a sign or a command."""
    if token[0] in ".0123456789":
        return "7919" if token != "7919" else "7907"
    if len(token) == 1 and token.isalpha() and token.isascii():
        return next((letter for letter in "zyxwvutsrqpnmkjhgcba" if letter not in text), "z")
    return " "


def letters_apart(gold: str, answer: str) -> tuple[str, str]:
    """Two texts in which a capital letter is another one where a text has the small one too: the
    parser takes ``R`` for ``r``, and ``R/r`` for 1."""
    kinds = [set(COMMAND_OR_LETTER.findall(text)) for text in (gold, answer)]
    used = {letter.lower() for letters in kinds for letter in letters}
    free = [letter for letter in "zyxwvutsrqpnmkjhgcba" if letter not in used]
    twice = sorted(
        {a for letters in kinds for a in letters if a.isupper() and a.lower() in letters}
    )
    other = dict(zip(twice, free, strict=False))

    def replaced(text: str) -> str:
        return COMMAND_OR_LETTER.sub(lambda found: other.get(found[0], found[0]), text)

    return replaced(gold), replaced(answer)
