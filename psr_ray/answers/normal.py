"""One spelling for what is written in many: LaTeX of the same meaning, units, numbers."""

from __future__ import annotations

import re
from fractions import Fraction

# Written for a comma that surely parts two answers (a space or a dollar sign stands beside it); a bare
# comma may also group the thousands of one number.
SEPARATOR = ";"

REPLACED = [
    (re.compile(pattern), by)
    for pattern, by in (
        (r"\\\\", SEPARATOR),  # the next row of a matrix
        (r"\\\$|\\(left|right|[bB]igg?[lr]?|displaystyle|limits)(?![a-zA-Z])", ""),
        (r"\\[!:>]|\\(quad|qquad|thinspace)(?![a-zA-Z])|\\ |~|\u00a0", " "),
        (r"\\;|\\,", " "),
        (r"\{,\}", ","),
        (r"\u2212|\u2013", "-"),
        (r"\u03c0", r"\\pi"),
        (r"\u221e", r"\\infty"),
        (r"\u222a", r"\\cup"),
        (r"\u221a\(?(\d+)\)?", r"\\sqrt{\1}"),
        (r"\u2264|\\leqslant|\\leq(?![a-z])", r"\\le"),
        (r"\u2265|\\geqslant|\\geq(?![a-z])", r"\\ge"),
        (r"\\neq(?![a-z])", r"\\ne"),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\(lvert|rvert|vert|mid)(?![a-z])", "|"),
        (r"\\(lbrace)(?![a-z])", r"\\{"),
        (r"\\(rbrace)(?![a-z])", r"\\}"),
        (r"\^\s*\{?\s*(\\circ|\u00b0)\s*\}?|\u00b0|\\degree", ""),
        (
            r"\\(text|mbox|mathrm|textbf|mathbf|textit|operatorname|rm|textrm)\s*\{([^{}]*)\}",
            r" \2 ",
        ),
        (r"\\%", "%"),
        (r"\\cdot(?![a-z])|\\times(?![a-z])", r"\\cdot "),
        (r"\\infin(?![a-z])", r"\\infty"),
        (r"\+\s*\\infty", r"\\infty"),
        (r"\\frac\s*(\d)\s*(\d)(?!\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
        (r"\^\{(\w)\}", r"^\1"),
        (r"_\{(\w)\}", r"_\1"),
        (r"(?:,|\u3001)?\s*\b(?:and|or)\b\s*", f"{SEPARATOR} "),
        (r"(?<=\$)\s*[,\u3001]|,\s*(?=\$)|,(?=\s)|\u3001|\n", SEPARATOR),
    )
]

UNITS = (
    "degrees?|deg|radians?|percent|dollars?|usd|cents?|pounds?|euros?|yuan|(?:square |cubic )?units?"
    "|(?:square |cubic )?(?:(?:centi|milli|kilo|deci)?met(?:er|re)s?|inch(?:es)?|feet|foot|yards?)"
    "|miles?|ft|mm|cm|dm|km|m|in|mi|mph|km/h|m/s|kg|mg|g|grams?|kilograms?|tons?|tonnes?|lit(?:er|re)s?|ml|l"
    "|hours?|hrs?|minutes?|min|seconds?|sec|s|days?|weeks?|months?|years?|years? old"
    "|miles per hour|meters per second|kilometers per hour|per (?:hour|minute|second|day)"
    "|people|students?|ways?|times|points?|apples?|marbles?|pages?|bottles?|boys?|girls?|children|coins?"
)
UNIT = re.compile(
    rf"(?<=[\d}}).a-zπ])\s+({UNITS})\.?(\s*\^?\s*\{{?[23]\}}?)?$|(?<=\d)({UNITS})$", re.I
)
NUMBER = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+|\d+)?(\.\d+)?(%?)")
FRACTION = re.compile(
    r"([+-]?)\\frac\{([+-]?\d{1,18})\}\{([+-]?\d{1,18})\}(%?)|([+-]?\d{1,18})/(\d{1,18})(%?)"
)
NAME = re.compile(
    r"^\s*(?:[a-zA-Z]|\\[a-z]+)(?:_\{?\w+\}?)?'?(?:\([a-zA-Z, ]+\))?\s*(?:=|\\in(?![a-z]))\s*"
)


def normal(answer: str) -> str:
    """An answer without what only changes its look, spaces single."""
    text = answer.strip()
    for pattern, by in REPLACED:
        text = pattern.sub(by, text)
    text = " ".join(text.replace("$", " ").split()).strip(f" {SEPARATOR}")
    text = re.sub(r"(?<=[^.])\.$|^\\\(|\\\)$|^\\\[|\\\]$", "", text).strip()
    return re.sub(r"\s*([;,()\[\]{}+\-=<>|/^_%&])\s*", r"\1", text)


def without_unit(text: str) -> tuple[str, str]:
    """An answer in its normal form, and the unit it ended with ("" where there is none)."""
    found = UNIT.search(text)
    if found is None or found.start() == 0:
        return text, ""
    return text[: found.start()].strip(), found[0].strip().lower().rstrip(".s")


def without_name(text: str) -> str:
    """The right side of ``x=5``, ``f(x)=2x`` and ``x\\in[0,1]``."""
    found = NAME.match(text)
    rest = "" if found is None else text[found.end() :]
    return text if not rest or re.search(r"=|\\[lg]e(?![a-z])|[<>]", rest) else rest


def number(text: str) -> tuple[Fraction, bool] | None:
    """The value of a plain number or fraction, exactly, and whether a percent sign follows it."""
    found = NUMBER.fullmatch(text)
    if found is not None and (found[2] or found[3]):
        digits = (found[2] or "0").replace(",", "") + (found[3] or "")
        return Fraction(found[1] + digits), bool(found[4])
    found = FRACTION.fullmatch(text)
    if found is None:
        return None
    sign = -1 if found[1] == "-" else 1
    above, below = int(found[2] or found[5]), int(found[3] or found[6])
    return (Fraction(sign * above, below), bool(found[4] or found[7])) if below else None
