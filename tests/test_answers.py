"""Grading: the gold answers of six benchmarks, their other spellings, and answers near to them."""

import json
from pathlib import Path

import pytest
from rewritings import rewritings, wrong

from psr_ray.answers import extract_boxed, is_equal
from psr_ray.answers.whole import read_whole

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


def both_ways(pairs):
    """Pairs that are equal, or are not, whichever of the two is the gold one."""
    return [*pairs, *((second, first) for first, second in pairs)]


@pytest.mark.parametrize(
    ("gold", "answer"),
    both_ways(
        [
            ("16386.20", "\\$16,\\!386.20"),
            ("11,\\! 111,\\! 111,\\! 100", "11111111100"),
            ("1234567", "1,\\!234,\\!567"),
            ("1234567", "1\\!,\\!234\\!,\\!567"),
            ("1234567", "1{,}234{,}567"),
            ("1234567", "1{\\,}234{\\,}567"),
            ("1234567", "1\\,234\\,567"),
            ("6000, 5000", "5,\\!000, 6,\\!000"),
            ("10000x", "10,\\!000x"),
            ("1000", "1 000"),
            ("-1000.5", "-1 000.5"),
            ("12,345,678", "12 345 678"),
            ("1000", "1\\;000"),
            ("1000", "1~000"),
            ("2000, 1000", "1 000, 2 000"),
            ("\\frac{1}{1 000}", "0.001"),
            ("1000000", "1\\,000\\,000 \\text{ people}"),
            ("100x^2", "x^2 100"),
        ]
    ),
)
def test_digits_are_grouped_in_many_ways(gold, answer):
    assert is_equal(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    both_ways(
        [
            ("16386.20", "16,\\!386.21"),
            ("12", "1 2"),
            ("2", "1 2"),
            ("6", "2 3"),
            ("12", "1,\\! 2"),
            ("1200", "12 00"),
            ("10005", "1 000 5"),
            ("1234", "1, 234"),
        ]
    ),
)
def test_numbers_side_by_side_are_no_number(gold, answer):
    assert not is_equal(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("(p,q)=(3,2)", "(3,2)", True),
        ("(3,2)", "(p,q)=(3,2)", True),
        ("(x, y, z) = (1, 2, 3)", "(1,2,3)", True),
        ("(3,2)", "\\left(p,q\\right)=\\left(3,2\\right)", True),
        ("(x_1, x_2) = (1, 2)", "(1,2)", True),
        ("(\\alpha, \\beta)=(1,2)", "(1, 2)", True),
        ("(x,y)=(1,2),(3,4)", "(3,4),(1,2)", True),
        ("(p,q)=(3,2)", "(2,3)", False),
        ("(2,3)", "(p,q)=(3,2)", False),
        ("(p,q)=(3,2)", "(q,p)=(2,3)", True),
        ("(p,q)=(3,2)", "(q,p)=(3,2)", False),
        ("(x,y)=(1,2)", "y=2, x=1", True),
        ("x=1, y=2", "y=2 \\text{ and } x=1", True),
        ("x=1, y=2", "x=2, y=1", False),
        ("x=1, y=2", "1, 2", True),
        ("x=1, y=2", "2, 1", False),
        ("1, 2", "x=2, y=1", True),
        ("x=1, x=2", "2, 1", True),
        ("x=1, y=2", "\\begin{cases} y = 2 \\\\ x = 1 \\end{cases}", True),
        ("f(n)=n, g(n)=1", "f(n)=1, g(n)=n", False),
        ("m_{\\max }=n^{2}", "n^2", True),
    ],
)
def test_values_have_their_names(gold, answer, equal):
    assert is_equal(gold, answer) is equal


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("2", "2 : 1", False),
        ("2:1", "2", False),
        ("2:1", "2 : 1", True),
        ("2:1", "1:2", False),
        ("2:1", "\\frac{2}{1}", True),
        ("2:1", "2/1", True),
        ("\\sqrt{3}:2", "\\frac{\\sqrt3}{2}", True),
        ("1:2", "0.5", False),
        ("\\frac{1}{2}", "1:2", False),
        ("1:2", "2:4", True),
        ("1:2:3", "2 : 4 : 6", True),
        ("1:2:3", "1:2:4", False),
        ("1:2:3", "1:2", False),
        ("1:2, 1:3", "1:3, 1:2", True),
        ("3:2", "(3:2)", True),
        ("1:2", "1\\colon 2", True),
        ("1:2", "1 \\text{ to } 2", True),
        ("x", "x:y", False),
        ("\\frac{x}{y}", "x:y", False),
        ("1:58 am", "1:58", True),
        ("1:58 am", "1:58 \\text{ a.m.}", True),
        ("1:58 am", "1:58 \\text{ pm}", False),
        ("2:3", "x:y=2:3", True),
        ("x:y=2:3", "2:3", True),
        ("1:2:3", "a:b:c=1:2:3", True),
        ("a:b:c=1:2:3", "1:2:3", True),
        ("\\frac{5}{6}", "P(A|B)=\\frac{5}{6}", True),
        ("P(A|B)=\\frac{5}{6}", "\\frac{5}{6}", True),
    ],
)
def test_a_ratio_is_no_number_and_may_be_named(gold, answer, equal):
    assert is_equal(gold, answer) is equal


VECTORS = "\\begin{pmatrix}1\\\\1\\end{pmatrix}", "\\begin{pmatrix}1\\\\-1\\end{pmatrix}"
SOLUTION = f"c_1 e^{{t}} {VECTORS[0]} + c_2 e^{{-t}} {VECTORS[1]}"


@pytest.mark.parametrize(
    ("gold", "answer"),
    both_ways(
        [
            ("\\sum_{k=1}^{n} k c_1", SOLUTION),
            ("\\sum_{k=1}^{n} k", "1"),
            ("\\prod_{k=1}^{n} k", "1"),
            ("\\sum_{k=1}^{n} k", "\\sum_{k=1}^{m} k"),
            ("\\bigcup_{i=1}^n A_i", "\\bigcup_{i=1}^m B_i"),
            ("f(x)=\\sum_{n=0}^\\infty a_n x^n", "\\sum_{n=1}^\\infty a_n x^n"),
            (SOLUTION, SOLUTION.replace("-1\\end", "-2\\end")),
            ("3", "5 \\star 3"),
            ("5", "x \\equiv 3 \\pmod 5"),
            ("2", "a_n \\to 2"),
            ("p \\Rightarrow 5", "q \\Rightarrow 5"),
            ("x^2 @ 1", "y+1 @ 1"),
            ("\\frac{1}{2}", "1+\\cdots+\\frac{1}{2}"),
            ("1, 2, 9", "1, 2, \\ldots, 9"),
            ("\\{1,2\\}", "\\{1,2,\\ldots\\}"),
            ("y", "y'"),
            ("f'(x)", "f(x)"),
            ("1011_2", "1011_3"),
            ("1", "\\frac{R}{r}"),
            ("\\frac{n}{N}", "\\frac{N}{n}"),
            ("3.14", "\\pi \\approx 3.14"),
        ]
    ),
)
def test_what_is_not_read_of_an_answer_makes_it_unequal(gold, answer):
    assert not is_equal(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (SOLUTION, SOLUTION.replace("c_1 e^{t}", "e^{t} c_1")),
        ("\\sum_{k=1}^{n} k", "\\sum_{j=1}^{n} j"),
        ("\\sum_{k=1}^{n} k", "\\frac{n(n+1)}{2}"),
        ("\\frac{Rr}{R+r}", "\\frac{1}{\\frac1R+\\frac1r}"),
        ("1011_2", "1011"),
        ("1011", "1011_{2}"),
        ("\\frac{1}{3}", "x = \\frac{1}{3} \\approx 0.333"),
        ("3.14", "x \\approx 3.14"),
        ("\\lfloor 2n/3 \\rfloor+1", "1+\\left\\lfloor\\frac{2 n}{3}\\right\\rfloor"),
        ("\\log_2 8", "3"),
        ("\\emptyset", "\\varnothing"),
    ],
)
def test_answers_that_are_read_completely_are_compared(gold, answer):
    assert is_equal(gold, answer)


def test_a_part_that_may_be_anything_was_not_read():
    def read(text):
        return [text.replace("'", "").replace("\\star", "").partition("~")[0]]

    assert read_whole("x^2+1", read)
    assert not any(read_whole(text, read) for text in ("x'", "x \\star", "x~2", "x~y"))


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        ("\\frac{7}{3}", "2 \\dfrac{1}{3}", True),
        ("\\frac{5}{2}", "2 1/2", True),
        ("1", "2 1/2", False),
        ("1", "2\\frac{1}{2}", False),
        ("-2\\frac{1}{2}", "-2.5", True),
        ("-2\\frac{1}{2}", "-1.5", False),
        ("12.5\\%", "12\\frac12\\%", True),
        ("0.5", "50 percent", True),
        ("5", "£5", True),
        ("5", "5\\,\\text{€}", True),
        ("5", "US\\$5.00", True),
        ("1500", "\\$1,\\!500 \\text{ dollars}", True),
    ],
)
def test_mixed_numbers_money_and_percent(gold, answer, equal):
    assert is_equal(gold, answer) is equal
