"""Expressions compared in a process of their own, which is killed where one takes too long.

What a model writes in a box may take for ever to work out (``9^{9^{9^9}}``), or more memory than there
is. Such an answer is wrong, and costs its time limit.
"""

from __future__ import annotations

import ctypes
import logging
import resource
import signal
import sys
import threading
from functools import cache
from multiprocessing import get_context

from pebble import ProcessPool

# Seconds of one comparison; those of ordinary answers take milliseconds.
LIMIT_S = 5.0
# Bytes of address space of the process.
MEMORY = 4 * 2**30
# Characters of an answer; a longer one is not read at all.
MAX_LENGTH = 500
PR_SET_PDEATHSIG = 1

_starting = threading.Lock()


def equal(gold: str, answer: str) -> bool:
    """Whether math-verify finds two expressions equal, gold first; False where it cannot say in time."""
    if max(len(gold), len(answer)) > MAX_LENGTH:
        return False
    with _starting:
        pool = _pool()
    try:
        return bool(pool.schedule(_verify, args=[gold, answer], timeout=LIMIT_S).result())
    except Exception as error:  # sympy raises what it likes; a killed process, its own
        logging.getLogger("psr_ray").debug("not comparable: %r, %r: %r", gold, answer, error)
        return False


@cache
def _pool() -> ProcessPool:
    return ProcessPool(max_workers=1, initializer=_confine, context=get_context("spawn"))


def _confine() -> None:
    """In the process: a limit on memory, and its end when its parent ends, whatever it is at."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # warns that it has no timeout
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _verify(gold: str, answer: str) -> bool:
    """math-verify without its own timeouts, which need a main thread and signals."""
    from math_verify import parse, verify

    boxed = [parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in (gold, answer)]
    return bool(verify(*boxed, timeout_seconds=None))
