"""Other spellings of gold answers, and answers that are near but wrong."""

import random
import re
from fractions import Fraction

INTEGER = re.compile(r"(?<![\d.,\w\\])\d{1,6}(?![\d.,])")
PLAIN = re.compile(r"-?\d+")
DECIMAL = re.compile(r"-?\d+\.\d+")
FRACTION = re.compile(r"(-?)\\frac\{(\d+)\}\{(\d+)\}")
THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+")
LIST = re.compile(r"[^,(){}\[\]\\]+(, ?[^,(){}\[\]\\]+)+")


def rewritings(gold):
    """The usual other spellings of an answer."""
    bare = gold.replace("$", "")
    yield gold if "$" in gold else f"${gold}$"
    yield gold.replace("\\frac", "\\dfrac").replace("\\dfrac", "\\tfrac", 1)
    yield gold.replace("(", "\\left(").replace(")", "\\right)") if "\\left" not in gold else gold
    yield re.sub(r"(?<=[+=])|(?=[+=])", " ", gold)
    yield gold + "."
    if PLAIN.fullmatch(bare):
        value = int(bare)
        yield f"{value}.0"
        yield f"{value:,}"
        yield f"{value:,}".replace(",", "{,}")
        yield f"x = {value}"
        yield f"{value}^\\circ"
        yield f"{value}^{{\\circ}}"
        yield f"{value}\\text{{ cm}}"
        yield f"{value} \\text{{ square units}}"
        yield f"\\${value}"
        yield f"{value}\\%"
        yield f"\\frac{{{2 * value}}}{{2}}"
        yield f"\\text{{{value}}}"
    if DECIMAL.fullmatch(bare):
        part = Fraction(bare)
        yield f"\\frac{{{part.numerator}}}{{{part.denominator}}}"
        yield f"{bare}0"
    found = FRACTION.fullmatch(bare)
    if found is not None:
        sign, above, below = found[1], int(found[2]), int(found[3])
        yield f"{sign}{above}/{below}"
        yield f"{sign}\\dfrac{{{3 * above}}}{{{3 * below}}}"
        rest = below
        for prime in (2, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            yield str(float(Fraction(above, below)) * (-1 if sign else 1))
    if LIST.fullmatch(bare) and not THOUSANDS.fullmatch(bare):
        parts = re.split(", ?", bare)
        yield ", ".join(reversed(parts))
        yield " and ".join(parts)
        yield "\\{" + ", ".join(parts) + "\\}" if len(set(parts)) == len(parts) else gold
    if bare.startswith("\\{") and bare.endswith("\\}") and "|" not in bare:
        yield "\\{" + ", ".join(reversed(re.split(", ?", bare[2:-2]))) + "\\}"
    if bare.startswith("\\text{") and bare.endswith("}"):
        yield bare[6:-1]
    if re.fullmatch(r"[A-E]", bare):
        yield from (f"({bare})", f"\\text{{({bare})}}", f"\\textbf{{{bare}}}", f"{bare}.")


def wrong(gold, seed):
    """An answer that is not equal: another number, another sign, a value missing or too many, a word."""
    rng = random.Random(f"{gold}/{seed}")
    places = list(INTEGER.finditer(gold))
    kinds = []
    if places:
        kinds += ["number", "number"]
    if PLAIN.fullmatch(gold) and int(gold):
        kinds += ["sign", "tenth", "one more"]
    if LIST.fullmatch(gold) and not THOUSANDS.fullmatch(gold):
        kinds.append("one less")
    if not kinds:
        return gold + "+1" if not re.fullmatch(r"[A-Za-z{}\\ ]+", gold) else "none of these"
    match rng.choice(kinds):
        case "number":
            place = rng.choice(places)
            changed = int(place[0]) + rng.choice((1, 2, 10))
            return f"{gold[: place.start()]}{changed}{gold[place.end() :]}"
        case "sign":
            return gold[1:] if gold.startswith("-") else f"-{gold}"
        case "tenth":
            return f"{gold}.1"
        case "one more":
            return f"{gold}, {int(gold) + 1}"
        case _:
            return re.split(", ?", gold, maxsplit=1)[1]
