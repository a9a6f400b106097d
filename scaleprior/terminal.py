"""What people and programs read of us on standard output, and the lines of logs: text of others is shown, not obeyed.

A name out of a file may hold what moves a terminal's cursor, sets its title, turns the order of letters round, ends a
line and begins another that looks like ours, or cannot be written at all. ``console`` does the same for rich.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from typing import Any

from scaleprior.wording import printable, without_effects

__all__ = ["LogFormatter", "say", "say_error", "say_json", "take_any_text"]

_OURS = "scaleprior"


def take_any_text() -> None:
    """Let standard output show letters that its encoding lacks as ``\\xe9``, as standard error does, and not raise."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:  # not where a test or a notebook put another stream
        reconfigure(errors="backslashreplace")


def say(*lines: object, flush: bool = False) -> None:
    """Print lines; what they hold of line ends and of what steers a terminal is escaped."""
    print(*(printable(str(line)) for line in lines), sep="\n", flush=flush)


def say_error(*lines: object) -> None:
    """As :func:`say`, on standard error."""
    print(*(printable(str(line)) for line in lines), sep="\n", file=sys.stderr)


def say_json(value: Any, *, indent: int | None = 2) -> None:
    """Print ``value`` as strict JSON in ASCII; a number that is not finite, which JSON has not, is null."""
    try:
        text = json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), indent=indent, allow_nan=False)
    print(text)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, (list, tuple)) else value


class LogFormatter(logging.Formatter):
    """Records without effects; one of ours is one line, but for its traceback: a name begins no line of its own.

    Of others' records, such as Detectron2's tables, lines stay.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, or of others the lines."""
        text = super().formatMessage(record)
        return printable(text) if record.name.partition(".")[0] == _OURS else text

    def format(self, record: logging.LogRecord) -> str:
        """With the traceback, if there is one."""
        return without_effects(super().format(record))
