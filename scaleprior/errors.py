"""The two kinds of error a user meets: bad input (exit code 2) and a failure while working (exit code 1)."""

from __future__ import annotations

__all__ = ["FailureError", "ScalePriorError", "UserError"]


class ScalePriorError(Exception):
    """Base of the errors that the command line prints as one line.

    Args:
        message: what is wrong, with the offending value and where it came from.
        hint: what to do about it; printed behind a semicolon.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.hint = hint


class UserError(ScalePriorError, ValueError):
    """Bad input: a file, a value or a combination that the user can change."""

    exit_code = 2


class FailureError(ScalePriorError, RuntimeError):
    """The input was fine but the work could not be finished (disk full, interrupted, diverged)."""

    exit_code = 1
