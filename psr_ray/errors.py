"""The root of every error a user can cause: one line that says what, where, and what to do."""

MAX_SAID = 300  # characters of another error's words


class PsrError(Exception):
    """A mistake in a config, an input file or the machine's set-up; shown without a traceback."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type where there is none."""
    return _lines(error)[0][:MAX_SAID]


def last_line(error: BaseException) -> str:
    """The last line of an error's message (the end of a traceback); its type where there is none."""
    return _lines(error)[-1][:MAX_SAID]


def one_line(error: BaseException) -> str:
    """All of an error's message on one line; its type where there is none."""
    return " ".join(" ".join(_lines(error)).split())[:MAX_SAID]


def _lines(error: BaseException) -> list[str]:
    return str(error).strip().splitlines() or [type(error).__name__]
