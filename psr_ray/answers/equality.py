"""Whether two final answers are equal: numbers, lists, choices and words here, all else by math-verify.

The gold answer comes first: what it leaves open (a unit, the name before ``=``, the order of several
values) the other may have or not; what it states must be there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from psr_ray.answers.isolated import MAX_LENGTH, equal
from psr_ray.answers.normal import (
    NAME,
    NAMES,
    SEPARATOR,
    exact,
    normal,
    number,
    without_name,
    without_spaces,
    without_unit,
)
from psr_ray.answers.whole import letters_apart

OPEN, CLOSE = "([{", ")]}"
CHOICE = re.compile(r"\(?([A-Za-z])\)?[.:]?")
# Letters that surely are a word, no product of names or name of a function.
LONG_WORD = re.compile(r"[A-Za-z]{4}")
WORDS = re.compile(r"[A-Za-z][A-Za-z .'\-]*[A-Za-z.]")
MATRIX = re.compile(r"\\begin\{([a-zA-Z]*matrix|array)\}(?:\{[lcr|]+\})?(.*)\\end\{\1\}")
SET_BUILDER = re.compile(r"\\\{\w(?:\\in\s*\\mathbb\{?\w\}?|\\in [RZNQ])?[|:](.*)\\\}")
ENVIRONMENT = re.compile(r"\\begin.*?\\end")
FRACTION_SIGN = re.compile(r"/|\\frac")
# Two numbers with nothing between them are no product; ``\\log_2 3`` and ``x^2 3`` are something else.
JUXTAPOSED = re.compile(r"(?<![\w^.])\d[\d.]* \d")
# Most values of a list whose order is free that are tried.
MAX_LIST = 100


def is_equal(gold: str, answer: str | None) -> bool:
    """Whether an extracted answer equals the gold one.

    Equal spellings, numbers (exactly; ``50\\%`` is ``0.5`` and ``50``), lists and sets in any order,
    values by their names, tuples and intervals part by part, ratios, choices and words are settled
    here; all else goes to math-verify (``isolated.equal``) and must be read by it as a whole. It has a
    process of its own: a script that calls this begins with ``if __name__ == "__main__":``. An answer
    longer than ``MAX_LENGTH`` equals only the same text.
    """
    if answer is None:
        return False
    if gold.strip() == answer.strip():
        return True
    if max(len(gold), len(answer)) > MAX_LENGTH:
        return False
    return _graded(gold, answer)


@lru_cache(maxsize=4096)
def _graded(gold: str, answer: str) -> bool:
    first, second = normal(gold), normal(answer)
    return bool(first and second) and _same(first, second)


def _same(gold: str, answer: str) -> bool:
    if without_spaces(gold) == without_spaces(answer):
        return True
    gold, gold_unit = without_unit(gold)
    answer, answer_unit = without_unit(answer)
    if gold_unit and answer_unit and gold_unit != answer_unit:
        return False
    named = _named(gold, answer)
    if named is not None:
        return named
    gold, answer = (exact(without_name(text)) for text in (gold, answer))
    if gold == answer:
        return True
    for settle in (_numbers, _choices, _matrices, _lists, _ratios, _bracketed, _words):
        settled = settle(gold, answer)
        if settled is not None:
            return settled
    return _expressions(gold, answer)


def _named(gold: str, answer: str) -> bool | None:
    """Values that each have a name, in ``(p,q)=(3,2)`` or ``p=3, q=2``: by their names or, where only
    one side has names, in order."""
    first, second = _names(gold), _names(answer)
    if first is None and (second is None or not gold.startswith("(")):
        return None  # a list without names: in any order
    one, other = first or _in_order(gold), second or _in_order(answer)
    if len(one) != len(other):
        return False
    if sorted(one) == sorted(other):
        return all(_same(value, other[name]) for name, value in one.items())
    return all(map(_same, one.values(), other.values()))


def _names(text: str) -> dict[str, str] | None:
    """The values by their names, where there are several and no two of the same name."""
    found = NAMES.match(text)
    if found is not None:
        names, values = re.split(f"[,{SEPARATOR}]", found[1]), _tuple(text[found.end() :])
        values = None if values is None else values[1:-1]
    else:
        parts = _values(text)
        matches = [NAME.match(part) for part in parts]
        if not all(match is not None and match[0].endswith("=") for match in matches):
            return None
        names = [match[1] for match in matches if match is not None]
        values = [part[len(name) + 1 :] for part, name in zip(parts, names, strict=True)]
    if values is None or not 1 < len(set(names)) == len(names) == len(values):
        return None
    return dict(zip(names, values, strict=True))


def _in_order(text: str) -> dict[str, str]:
    """The values of a tuple or a list, each by its place."""
    inner = _tuple(text)
    values = _values(text) if inner is None else inner[1:-1]
    return {str(place): value for place, value in enumerate(values)}


def _numbers(gold: str, answer: str) -> bool | None:
    first, second = number(gold), number(answer)
    if first is None or second is None:
        return None
    (a, a_percent), (b, b_percent) = first, second
    if a == b:
        return True
    if a_percent != b_percent:
        return a == b * 100 if a_percent else a * 100 == b
    return False


def _choices(gold: str, answer: str) -> bool | None:
    """Letters of choices: ``(B)``, ``B.``; small letters are names of numbers unless both are alike."""
    first, second = CHOICE.fullmatch(gold), CHOICE.fullmatch(answer)
    if first is None or second is None:
        return None
    return first[1] == second[1]


def _matrices(gold: str, answer: str) -> bool | None:
    """Entry by entry, whatever their brackets."""
    found = [MATRIX.fullmatch(text) for text in (gold, answer)]
    if not all(found):
        return None
    rows = [_split(match[2], SEPARATOR) for match in found if match is not None]
    first, second = ([_split(row, "&") for row in matrix] for matrix in rows)
    if [len(row) for row in first] != [len(row) for row in second]:
        return False
    return all(
        _same(a, b) for r, s in zip(first, second, strict=True) for a, b in zip(r, s, strict=True)
    )


def _lists(gold: str, answer: str) -> bool | None:
    """Several values, or one with both signs, in any order."""
    first, second = _values(gold), _values(answer)
    if len(first) == 1 and len(second) == 1:
        return None
    first, second = (
        (_set(values[0]) or values) if len(values) == 1 else values for values in (first, second)
    )
    if len(first) == 1 and number(gold) is not None:
        return False
    if len(second) == 1:  # "48,384" may be two numbers as well as one
        second = _split(answer, ",")
    return _in_any_order(first, second)


def _in_any_order(first: Sequence[str], second: Sequence[str]) -> bool:
    if len(first) != len(second) or len(first) > MAX_LIST:
        return False
    left = list(second)
    for value in first:
        found = next((other for other in left if _same(value, other)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _values(text: str) -> list[str]:
    """The parts between commas outside brackets; ``a±b`` is two."""
    parts = _split(text, SEPARATOR)
    if len(parts) == 1 and number(text) is None:
        parts = _split(text, ",")
    if "\\pm" in text:
        parts = [part.replace("\\pm", sign) for part in parts for sign in "+-"]
        parts = [part.removeprefix("+") for part in parts]
    return parts


def _split(text: str, mark: str) -> list[str]:
    """Parts between marks outside brackets."""
    parts, depth, start = [], 0, 0
    for position, letter in enumerate(text):
        depth += (letter in OPEN) - (letter in CLOSE)
        depth += text.startswith("\\begin", position) - text.startswith("\\end", position)
        if depth <= 0 and text.startswith(mark, position):
            parts.append(text[start:position].strip())
            start = position + len(mark)
    return [part for part in [*parts, text[start:].strip()] if part]


def _ratios(gold: str, answer: str) -> bool | None:
    """Ratios by their terms; one of two terms may be answered by a fraction, but by no other number."""
    first, second = _terms(gold), _terms(answer)
    if len(first) == 1 and len(second) == 1:
        return None
    if len(first) == 2 and len(second) == 1 and FRACTION_SIGN.search(answer):
        return _same(_fractions(first)[0], answer)
    if len(first) != len(second):
        return False
    return first == second or all(map(_same, _fractions(first), _fractions(second)))


def _terms(text: str) -> list[str]:
    found = re.fullmatch(r"\(([^()]*)\)", text)
    return _split(text if found is None else found[1], ":")


def _fractions(terms: list[str]) -> list[str]:
    return [f"\\frac{{{a}}}{{{b}}}" for a, b in pairwise(terms)]


def _bracketed(gold: str, answer: str) -> bool | None:
    """Unions in any order; sets in any order; tuples and intervals part by part with their brackets."""
    first, second = _split(gold, "\\cup"), _split(answer, "\\cup")
    if len(first) > 1 or len(second) > 1:
        return _in_any_order(first, second) or None
    one, other = _set(gold), _set(answer)
    if one is not None and other is not None:
        return _in_any_order(one, other)
    one, other = _tuple(gold), _tuple(answer)
    if one is not None and other is not None:
        return len(one) == len(other) and all(map(_same_part, one, other))
    builders = [SET_BUILDER.fullmatch(text) for text in (gold, answer)]
    if any(builders):
        conditions = [
            text if found is None else found[1]
            for found, text in zip(builders, (gold, answer), strict=True)
        ]
        return _same(conditions[0], conditions[1])
    return None


def _set(text: str) -> list[str] | None:
    if not (text.startswith("\\{") and text.endswith("\\}")) or SET_BUILDER.fullmatch(text):
        return None
    return _values(text[2:-2])


def _tuple(text: str) -> list[str] | None:
    """A tuple's or interval's opening bracket, its parts, its closing bracket."""
    if text[:1] not in "([" or text[-1:] not in ")]" or not text:
        return None
    inner = _split(text[1:-1].replace(SEPARATOR, ","), ",")
    return [text[0], *inner, text[-1]] if len(inner) > 1 else None


def _same_part(gold: str, answer: str) -> bool:
    return gold == answer if gold in "([])" or answer in "([])" else _same(gold, answer)


def _words(gold: str, answer: str) -> bool | None:
    """Words: the same but for capitals and a full stop."""
    if not (WORDS.fullmatch(gold) and WORDS.fullmatch(answer)):
        return None
    if gold.rstrip(".").casefold() == answer.rstrip(".").casefold():
        return True
    return False if LONG_WORD.search(gold) and LONG_WORD.search(answer) else None


def _expressions(gold: str, answer: str) -> bool:
    if JUXTAPOSED.search(gold) or JUXTAPOSED.search(answer):
        return False
    return equal(*map(_rows, letters_apart(gold, answer)))


def _rows(text: str) -> str:
    """With the marks of LaTeX between the rows of a matrix, and between values."""
    text = ENVIRONMENT.sub(lambda found: found[0].replace(SEPARATOR, "\\\\"), text)
    return text.replace(SEPARATOR, ", ")
