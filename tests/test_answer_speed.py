"""How fast answers are graded."""

import time

from rewritings import wrong
from test_answers import gold_answers

from psr_ray.answers import is_equal


def seconds(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def test_500_answers_a_second():
    """By a clock that a busy machine slows as much: a million squares take 0.04 s where 600 answers take
    a second."""
    pairs = [
        pair for gold in gold_answers() for pair in ((gold, gold + "."), (gold, wrong(gold, 7)))
    ]
    is_equal("x+1", "1+x")  # starts the process
    parts = [pairs[start : start + 100] for start in range(0, len(pairs), 100)]
    squares_s = answers_s = 0.0
    for part in parts:
        squares_s += seconds(lambda: sum(n * n for n in range(1_000_000)))
        answers_s += seconds(lambda part=part: [is_equal(*pair) for pair in part])
    million_s = squares_s / len(parts)
    assert len(pairs) / (answers_s / million_s) > 12  # 25 on a machine with nothing else to do
