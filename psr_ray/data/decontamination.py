"""Problems that a benchmark or a held-out set holds, found by shared 13-grams of words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# Words of a phrase that two problems do not share by chance (GPT-3, arXiv 2005.14165, App. C).
LENGTH = 13
WORD = re.compile(r"[^\W_]+")


def phrases(text: str, length: int = LENGTH) -> Iterator[tuple[str, ...]]:
    """All runs of ``length`` words, in small letters and without signs; all words of a shorter text."""
    words = WORD.findall(text.casefold())
    for start in range(max(1, len(words) - length + 1)):
        yield tuple(words[start : start + length])


class Benchmarks:
    """The phrases of benchmark problems, each with the name of a benchmark that has it."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    def add(self, name: str, texts: Iterable[str]) -> int:
        """Take in a benchmark's problems; returns how many."""
        num = 0
        for num, text in enumerate(texts, start=1):  # noqa: B007
            for phrase in phrases(text):
                if phrase:
                    self._names.setdefault(hash(phrase), name)
        return num

    def found_in(self, text: str) -> str | None:
        """The benchmark that shares a phrase with a problem, None where there is none. A benchmark
        problem of fewer words than a phrase has is found where it equals the problem."""
        return next(
            (name for phrase in phrases(text) if (name := self._names.get(hash(phrase)))), None
        )
