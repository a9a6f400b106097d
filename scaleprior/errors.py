"""The two kinds of error a user meets: bad input (exit code 2) and a failure while working (exit code 1)."""

from __future__ import annotations

from scaleprior.wording import Wording

__all__ = ["FailureError", "ScalePriorError", "UserError"]


class ScalePriorError(Exception):
    """Base of the errors that the command line prints as one line.

    Args:
        message: what is wrong, with the offending value and where it came from; names parameters by
            :func:`scaleprior.wording.parameter`, never flags.
        hint: what to do about it; printed behind a semicolon.

    Attributes:
        wording: message and hint, as Python and as the command line say them.
    """

    exit_code: int = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.wording: Wording = Wording(f"{message}; {hint}" if hint else message)
        super().__init__(str(self.wording))
        self.hint: Wording = Wording(hint)


class UserError(ScalePriorError, ValueError):
    """Bad input: a file, a value or a combination that the user can change."""

    exit_code: int = 2


class FailureError(ScalePriorError, RuntimeError):
    """The input was fine but the work could not be finished (disk full, interrupted, diverged)."""

    exit_code: int = 1
