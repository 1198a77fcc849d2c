"""The root of every error a user can cause: one line that says what, where, and what to do."""


class PsrError(Exception):
    """A mistake in a config, an input file or the machine's set-up; shown without a traceback."""
