"""One spelling for what is written in many: LaTeX of the same meaning, units, numbers."""

from __future__ import annotations

import re
from fractions import Fraction

# Written for a comma that surely parts two answers (a space or a dollar sign stands beside it); a bare
# comma may also group the thousands of one number.
SEPARATOR = ";"

# Between the groups of three digits of one number: commas drawn nearer, commas and spaces in braces.
GROUPED = r"(?:(?:\\!)?(?:,|\{,\})\s*\\!\s*|\{\s*(?:,|~|\\[ ,!;:])\s*\}(?:\\!)?)"
REPLACED = [
    (re.compile(pattern), by)
    for pattern, by in (
        (r"^\s*\\begin\{cases\}([^&]*)\\end\{cases\}\s*$", r"\1"),
        (r"\\\\", SEPARATOR),  # the next row of a matrix
        (rf"(?<=\d){GROUPED}(?=\d{{3}}(?!\d))", ""),
        (r"\b(?:US|USD)\s*(?=\\?\$)|[€£¥₹]|\\(euro|pounds|textdollar)(?![a-z])", ""),
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
        (r"\\%|(?<=\d)\s*percent\b", "%"),
        (r"\\colon(?![a-z])|\uff1a|\u2236|(?<=\d)\s+to\s+(?=\d)", ":"),
        (r"\u2248|\\thickapprox(?![a-z])", r"\\approx "),
        (r"\\cdot(?![a-z])|\\times(?![a-z])", r"\\cdot "),
        (r"\\varnothing(?![a-z])|\u2205", r"\\emptyset"),
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
# Marks that change the meaning of the digits before them: half of the day, the base.
CLOCK = re.compile(r"(?<=:\d\d)\s*([ap])\.?m\.?$", re.I)
BASE = re.compile(r"(?<=\d)_(?:(\d)|\{(\d+)\})$")
SPACED = re.compile(r"(?<![\d.,^_])(?<!\d )[1-9]\d{0,2}(?: \d{3})+(?! ?\d)")
NUMBER = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+|\d+)?(\.\d+)?(%?)")
FRACTION = re.compile(
    r"([+-]?)\\frac\{([+-]?\d{1,18})\}\{([+-]?\d{1,18})\}(%?)|([+-]?\d{1,18})/(\d{1,18})(%?)"
)
MIXED = re.compile(
    r"([+-]?)(\d{1,18})(?: ?\\frac\{(\d{1,18})\}\{(\d{1,18})\}| (\d{1,18})/(\d{1,18}))(%?)"
)
ONE_NAME = r"(?:[a-zA-Z]|\\[a-z]+)(?:_(?:\w|\{(?:\w|\\[a-z]+ ?)+\}))?'?(?:\([a-zA-Z, |]+\))?"
NAME = re.compile(
    rf"(?!(?:\\pi|e)\s*\\approx)({ONE_NAME}(?::{ONE_NAME})*)\s*(?:=|\\in(?![a-z])\s*|\\approx(?![a-z])\s*)"
)
NAMES = re.compile(rf"\(({ONE_NAME}(?:[,{SEPARATOR}]{ONE_NAME})+)\)=")


def normal(answer: str) -> str:
    """An answer without what only changes its look, spaces single."""
    text = answer.strip()
    for pattern, by in REPLACED:
        text = pattern.sub(by, text)
    text = " ".join(text.replace("$", " ").split()).strip(f" {SEPARATOR}")
    text = re.sub(r"(?<=[^.])\.$|^\\\(|\\\)$|^\\\[|\\\]$", "", text).strip()
    text = re.sub(r"\s*([;:,()\[\]{}+\-=<>|/^_%&])\s*", r"\1", text)
    return SPACED.sub(lambda found: found[0].replace(" ", ""), text)


def without_spaces(text: str) -> str:
    """A text without its spaces, but those that part two numbers."""
    return re.sub(r"(?<!\d) | (?!\d)", "", text)


def without_unit(text: str) -> tuple[str, str]:
    """An answer in its normal form, and the unit it ended with ("" where there is none)."""
    found = UNIT.search(text) or CLOCK.search(text) or BASE.search(text)
    if found is None or found.start() == 0:
        return text, ""
    unit = re.sub(r"[.{}]", "", found[0].strip().lower()).rstrip("s")
    return text[: found.start()].strip(), unit


def without_name(text: str) -> str:
    """The right side of ``x=5``, ``f(x)=2x``, ``x\\in[0,1]`` and ``(p,q)=(3,2)``."""
    found = NAME.match(text) or NAMES.match(text)
    rest = "" if found is None else text[found.end() :]
    return text if not rest or re.search(r"=|\\[lg]e(?![a-z])|[<>]", rest) else rest


def exact(text: str) -> str:
    """An exact value without the number it approximately is; that number where it stands alone."""
    before, _, after = (part.strip() for part in text.partition("\\approx"))
    return (before or after) if number(after) is not None else text


def number(text: str) -> tuple[Fraction, bool] | None:
    """The value of a plain number or fraction, exactly, and whether a percent sign follows it."""
    found = NUMBER.fullmatch(text)
    if found is not None and (found[2] or found[3]):
        digits = (found[2] or "0").replace(",", "") + (found[3] or "")
        return Fraction(found[1] + digits), bool(found[4])
    found = MIXED.fullmatch(text)
    if found is not None:
        return _mixed(found)
    found = FRACTION.fullmatch(text)
    if found is None:
        return None
    sign = -1 if found[1] == "-" else 1
    above, below = int(found[2] or found[5]), int(found[3] or found[6])
    return (Fraction(sign * above, below), bool(found[4] or found[7])) if below else None


def _mixed(found: re.Match[str]) -> tuple[Fraction, bool] | None:
    """``2\\frac{1}{3}``; an integer before another fraction is a product, if anything."""
    above, below = int(found[3] or found[5]), int(found[4] or found[6])
    if not 0 < above < below:
        return None
    value = int(found[2]) + Fraction(above, below)
    return (-value if found[1] == "-" else value), bool(found[7])
