"""Expressions compared in a process of their own, which is killed where one takes too long.

The content of a box may take for ever to evaluate (``9^{9^{9^9}}``), or more memory than there
is. Such an answer is wrong, and costs its time limit.
"""

from __future__ import annotations

import logging
import resource
import signal
import threading
from contextlib import suppress
from functools import cache, lru_cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from psr_ray.answers.whole import read_whole

# Seconds of a processor for one comparison, so that a busy machine makes no right answer wrong; those
# of ordinary answers take milliseconds.
LIMIT_S = 5.0
# Seconds within which its process answers, including its start.
ANSWER_S = 60.0
# Bytes of address space of the process.
MEMORY = 4 * 2**30
# Characters of an answer; a longer one is not read at all.
MAX_LENGTH = 500

_one_at_a_time = threading.Lock()


def equal(gold: str, answer: str) -> bool:
    """Whether math-verify finds two expressions equal, gold first; False where it cannot tell in time.

    Raises ``RuntimeError`` where the process that compares cannot be had."""
    if max(len(gold), len(answer)) > MAX_LENGTH:
        return False
    with _one_at_a_time:
        for again in (False, True):
            grader = _grader()
            try:
                return grader.equal(gold, answer)
            except TimeoutError as error:
                why = f"answers cannot be compared: {error}"
                if again:
                    grader.end()
                    raise RuntimeError(why) from error
            except (EOFError, OSError) as error:
                why = f"the process that compares answers ended: {error!r}"
            if grader.end() == -signal.SIGPROF:
                why = "it took too long"
                break
            if not again:  # ended from outside, perhaps; else by what it compares: too much memory
                logging.getLogger("psr_ray").warning("grading is started again: %s", why)
    logging.getLogger("psr_ray").debug("not comparable: %r, %r: %s", gold, answer, why)
    return False


class _Grader:
    """A process that compares what it is sent; it ends when the other end of its pipe does."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        try:
            self._received()
        except (EOFError, OSError) as error:
            raise RuntimeError(
                f"no process to compare answers in: it ended with {self.end()}: {error!r}"
            ) from error

    def equal(self, gold: str, answer: str) -> bool:
        """Raises ``EOFError`` or ``OSError`` where the process has ended, ``TimeoutError`` where it
        does not answer."""
        self.connection.send((gold, answer))
        return self._received()

    def end(self) -> int | None:
        """End the process, if it has not ended, and forget it; its exit code."""
        _grader.cache_clear()
        self.connection.close()
        self.process.join(1)
        self.process.kill()
        self.process.join()
        return self.process.exitcode

    def _received(self) -> bool:
        if not self.connection.poll(ANSWER_S):
            raise TimeoutError(f"the process that compares them did not answer for {ANSWER_S:g} s")
        return bool(self.connection.recv())


@cache
def _grader() -> _Grader:
    return _Grader()


def _serve(connection: Connection) -> None:
    """In the process: a limit on memory; what a comparison needs is imported outside its time limit."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY if most == resource.RLIM_INFINITY else min(most, MEMORY)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # warns that it has no timeout
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the other end's affair
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process
    with suppress(EOFError, BrokenPipeError):  # the other end has gone
        connection.send(_verify("1", "\\frac{2}{2}"))
        while True:
            gold, answer = connection.recv()
            signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
            result = _verify(gold, answer)
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send(result)


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
