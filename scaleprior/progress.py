"""How long work reports where it is: a function of (done, total, numbers), called once a step."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping

from scaleprior.terminal import LogFormatter

__all__ = ["ProgressFn", "StandardError", "progress_bar", "watched"]

ProgressFn = Callable[[int, int, Mapping[str, float]], None]
"""``(done, total, numbers)``: steps done, steps in all, and figures worth showing such as ``{"loss": 0.7}``."""


class StandardError(logging.Handler):
    """Log lines on what is standard error when they come: while a bar is shown, above it, so that they do not tear it.

    ``logging.StreamHandler`` keeps the stream that it met first.

    Args:
        line: what a line says, as :class:`logging.Formatter` takes it.
    """

    def __init__(self, line: str = "%(message)s") -> None:
        super().__init__()
        self.setFormatter(LogFormatter(line))

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record; what it quotes does not steer the terminal."""
        try:
            sys.stderr.write(f"{self.format(record)}\n")
        except Exception:
            self.handleError(record)


@contextlib.contextmanager
def progress_bar(description: str, *, unit: str = "steps") -> Iterator[ProgressFn]:
    """A bar on the terminal's standard error with rate and time left; silent where that is not a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from scaleprior.console import PlainConsole, WordsColumn

    console = PlainConsole(stderr=True)
    columns = (
        *(WordsColumn(), BarColumn(), MofNCompleteColumn(), WordsColumn("rate")),
        *(TimeRemainingColumn(), WordsColumn("numbers")),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=None, rate="", numbers="")

        def report(done: int, total: int, numbers: Mapping[str, float]) -> None:
            speed = progress.tasks[task].speed
            progress.update(
                task,
                completed=done,
                total=total,
                rate=f"{speed:.1f} {unit}/s" if speed else "",
                numbers=" ".join(f"{name} {value:.4g}" for name, value in numbers.items()),
            )

        yield report


@contextlib.contextmanager
def watched(
    progress: ProgressFn | bool | None, description: str, *, unit: str = "steps"
) -> Iterator[ProgressFn | None]:
    """The function to report to, of a ``progress`` argument: True for a :func:`progress_bar`, else what was given."""
    if progress is True:
        with progress_bar(description, unit=unit) as report:
            yield report
    else:
        yield progress or None
