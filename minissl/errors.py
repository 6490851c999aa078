"""The one exception for what a person got wrong, and the check of options that raises it."""

from typing import Any


class InputError(ValueError):
    """Says in one line what was given, what was expected and the likely slip.

    The command line prints the message without a traceback and exits with 2.
    """


def require_values(options: Any, expected: list[tuple[str, bool, str]]) -> None:
    """Raise InputError for the first (field, whether its value fits, what is expected) that does not fit."""
    for name, fits, what in expected:
        if not fits:
            raise InputError(f"--{name.replace('_', '-')} {getattr(options, name)!r}: expected {what}")
