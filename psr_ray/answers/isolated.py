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
from concurrent.futures import wait
from functools import cache, lru_cache
from multiprocessing import get_context
from typing import Any

from pebble import ProcessExpired, ProcessPool

from psr_ray.answers.whole import read_whole

# Seconds of one comparison; those of ordinary answers take milliseconds.
LIMIT_S = 5.0
# Seconds within which its process says something, also where it has to be started first.
ANSWER_S = 60.0
# Bytes of address space of the process.
MEMORY = 4 * 2**30
# Characters of an answer; a longer one is not read at all.
MAX_LENGTH = 500
PR_SET_PDEATHSIG = 1

_starting = threading.Lock()


def equal(gold: str, answer: str) -> bool:
    """Whether math-verify finds two expressions equal, gold first; False where it cannot say in time.

    Raises ``RuntimeError`` where the process that compares cannot be had."""
    if max(len(gold), len(answer)) > MAX_LENGTH:
        return False
    try:
        return _compare(gold, answer)
    except ProcessExpired as error:  # killed from outside, perhaps: the pool has another
        logging.getLogger("psr_ray").warning("grading goes on in another process: %s", error)
    except RuntimeError as error:
        logging.getLogger("psr_ray").warning("grading is started again: %s", error)
        with _starting:
            _pool().stop()
            _pool.cache_clear()
    try:
        return _compare(gold, answer)
    except ProcessExpired as error:  # killed by what it compares: too much memory, too deep
        return _not_comparable(gold, answer, error)


def _compare(gold: str, answer: str) -> bool:
    with _starting:
        future = _pool().schedule(_verify, args=[gold, answer], timeout=LIMIT_S)
    if not wait([future], timeout=ANSWER_S).done:
        raise RuntimeError(f"the process that compares answers said nothing for {ANSWER_S:g} s")
    try:
        return bool(future.result())
    except TimeoutError as error:
        return _not_comparable(gold, answer, error)


def _not_comparable(gold: str, answer: str, error: Exception) -> bool:
    logging.getLogger("psr_ray").debug("not comparable: %r, %r: %r", gold, answer, error)
    return False


@cache
def _pool() -> ProcessPool:
    return ProcessPool(max_workers=1, initializer=_confine, context=get_context("spawn"))


def _confine() -> None:
    """In the process: a limit on memory, and its end when its parent ends, whatever it is at. What a
    comparison needs is imported here, outside its time limit."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY if most == resource.RLIM_INFINITY else min(most, MEMORY)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # warns that it has no timeout
    _verify("1", "\\frac{2}{2}")


def _verify(gold: str, answer: str) -> bool:
    """math-verify without its own timeouts, which need a main thread and signals; what it left out of
    an answer makes it another one."""
    from math_verify import verify

    try:
        equal = bool(verify(_parsed(gold), _parsed(answer), timeout_seconds=None))
        return equal and _whole(gold) and _whole(answer)
    except Exception:  # sympy raises what it likes
        return False


@lru_cache(maxsize=1024)
def _parsed(text: str) -> list[Any]:
    """An answer as math-verify reads it: a gold one is read once for all samples of its problem. The
    whole of it: where it cannot be read, math-verify would look for a number somewhere in it."""
    from math_verify import LatexExtractionConfig, parse

    whole = LatexExtractionConfig(try_extract_without_anchor=False, boxed_match_priority=0)
    parsed: list[Any] = parse(f"\\boxed{{{text}}}", extraction_config=[whole], parsing_timeout=None)
    return parsed


@lru_cache(maxsize=1024)
def _whole(text: str) -> bool:
    return read_whole(text, _parsed)
