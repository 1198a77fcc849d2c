"""Grading: the gold answers of six benchmarks, their other spellings, and answers near to them."""

import json
import time
from pathlib import Path

import pytest
from rewritings import rewritings, wrong

from psr_ray.answers import extract_boxed, is_equal

GOLD = Path(__file__).parent / "data" / "gold_answers.jsonl"


def gold_answers():
    """The gold answers that are not empty; several of one problem as a list."""
    lines = GOLD.read_text().splitlines()
    return [text for line in lines if (text := ", ".join(json.loads(line)["answers"]))]


def report(failures, num):
    return f"{len(failures)} of {num}: {failures[:20]}"


def test_every_gold_answer_equals_itself_in_a_box_and_its_other_spellings():
    answers = gold_answers()
    assert len(answers) == 1319 + 500 + 383 + 675 + 30 + 40
    failures, num = [], 0
    for gold in answers:
        for text in (gold, *rewritings(gold)):
            num += 1
            if not is_equal(gold, extract_boxed(f"So it is $\\boxed{{{text}}}$.")):
                failures.append((gold, text))
    assert len(failures) <= 0.005 * num, report(failures, num)


def test_no_gold_answer_equals_one_that_is_near_to_it():
    pairs = [(gold, wrong(gold, seed)) for gold in sorted(set(gold_answers())) for seed in range(2)]
    assert len(pairs) >= 2000
    failures = [pair for pair in pairs if is_equal(*pair)]
    assert len(failures) <= 0.005 * len(pairs), report(failures, len(pairs))


def test_500_answers_a_second():
    pairs = [
        pair for gold in gold_answers() for pair in ((gold, gold + "."), (gold, wrong(gold, 7)))
    ]
    is_equal("x+1", "1+x")  # starts the process
    started = time.time()
    for gold, answer in pairs:
        is_equal(gold, answer)
    assert len(pairs) / (time.time() - started) > 250  # 500 on a machine with nothing else to do


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("50\\%", "0.5", True),
        ("50\\%", "50", True),
        ("0.5", "5\\%", False),
        ("$48$, $384$", "48,384", True),
        ("$48$, $384$", "384 \\text{ and } 48", True),
        ("48,384", "48384", True),
        ("(1, 2)", "(2, 1)", False),
        ("\\{1, 2\\}", "\\{2, 1\\}", True),
        ("(0, 1]", "[0, 1]", False),
        ("(-\\infty, 0) \\cup (1, 2)", "(1,2)\\cup(-\\infty,0)", True),
        ("3 \\pm \\sqrt{2}", "3+\\sqrt2, 3-\\sqrt 2", True),
        ("3 \\pm \\sqrt{2}", "3+\\sqrt2", False),
        ("f(x)=2 x", "2x", True),
        ("y=2 x", "y = 3x", False),
        ("5 \\text{ cm}", "5", True),
        ("5 \\text{ cm}", "5 \\text{ kg}", False),
        ("90^\\circ", "90", True),
        ("\\text{Evelyn}", "evelyn", True),
        ("\\text{Evelyn}", "Angela", False),
        ("B", "\\text{(B)}", True),
        ("B", "C", False),
        ("x^2+1", "1+x^{2}", True),
        ("\\frac{1}{3}", "0.333", False),
        ("1/3", "\\dfrac{1}{3}", True),
        ("\\{x|-2\\leq x < 1\\}", "[-2,1)", True),
        ("2\\sqrt{3}", "\\sqrt{12}", True),
        ("12", None, False),
        ("12", "", False),
        ("1,200", "1200", True),
        ("12", "12.0", True),
        ("\\frac{1}{2}", "0.5", True),
    ],
)
def test_what_a_gold_answer_states_must_be_there(gold, answer, equal):
    assert is_equal(gold, answer) is equal


def test_the_last_whole_box_counts():
    assert extract_boxed("\\boxed{1} then \\boxed{\\frac{2}{3}}") == "\\frac{2}{3}"
    assert extract_boxed("\\boxed{1") is None
    assert extract_boxed("none") is None
