"""The two kinds of error a user meets: bad input (exit code 2) and a failure while working (exit code 1)."""

from __future__ import annotations

from collections.abc import Sequence

from scaleprior.wording import Wording, marked_line

__all__ = ["FailureError", "ScalePriorError", "UserError"]


class ScalePriorError(Exception):
    """Base of the errors that the command line prints as one line.

    Args:
        message: what is wrong, with the offending value and where it came from; names parameters by
            :func:`scaleprior.wording.parameter`, never flags.
        hint: what to do about it; printed behind a semicolon.
        lines: further things of the same kind, each on a line of its own.

    Attributes:
        wording: message and hint, as Python and as the command line say them. What files and names brought with them
            of line ends and of what steers a terminal is escaped.
    """

    exit_code: int = 1

    def __init__(self, message: str, *, hint: str = "", lines: Sequence[str] = ()) -> None:
        first = f"{message}; {hint}" if hint else message
        self.wording: Wording = Wording("\n- ".join(marked_line(line) for line in (first, *lines)))
        super().__init__(str(self.wording))
        self.hint: Wording = Wording(marked_line(hint))

    def __str__(self) -> str:
        return str(self.wording)


class UserError(ScalePriorError, ValueError):
    """Bad input: a file, a value or a combination that the user can change."""

    exit_code: int = 2


class FailureError(ScalePriorError, RuntimeError):
    """The input was fine but the work could not be finished (disk full, interrupted, diverged)."""

    exit_code: int = 1
