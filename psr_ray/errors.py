"""The root of every error a user can cause: one line that says what, where, and what to do."""

MAX_SAID = 300  # characters of another error's words


class PsrError(Exception):
    """A mistake in a config, an input file or the machine's set-up; shown without a traceback."""


def first_line(error: BaseException) -> str:
    """What an error says first; its kind where it says nothing."""
    return _lines(error)[0][:MAX_SAID]


def last_line(error: BaseException) -> str:
    """What an error says last, behind a traceback say; its kind where it says nothing."""
    return _lines(error)[-1][:MAX_SAID]


def _lines(error: BaseException) -> list[str]:
    return str(error).strip().splitlines() or [type(error).__name__]
