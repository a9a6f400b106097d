"""Where Detectron2's messages go when a library call, not a tool, runs it."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from scaleprior.errors import FailureError, ScalePriorError
from scaleprior.terminal import LogFormatter
from scaleprior.wording import printable, without_effects

__all__ = [
    "RunLog", "held_messages", "quiet_stdout", "run_log", "without_effects_in_logs", "without_tracebacks",
]  # fmt: skip

_LOGGERS = ("detectron2", "fvcore", "scaleprior")


class _NoTraceback(logging.Filter):
    """Detectron2's loop logs every exception with its traceback; errors that are said in one line need none."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if isinstance(error, (ScalePriorError, FloatingPointError)):
            record.msg, record.args, record.exc_info = f"{record.getMessage()} {error}", (), None
        return True


_NO_TRACEBACK = _NoTraceback()


def without_tracebacks() -> None:
    """Keep errors of ours to one line in Detectron2's log; doing it twice is harmless."""
    logging.getLogger("detectron2.engine.train_loop").addFilter(_NO_TRACEBACK)


class _NoEffects(logging.Filter):
    """For Detectron2's handlers, whose formatter colours what it puts before a message itself."""

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        plain = printable(said) if record.name.startswith("scaleprior") else without_effects(said)
        if plain != said:
            record.msg, record.args = plain, ()
        return True


_NO_EFFECTS = _NoEffects()


def without_effects_in_logs() -> None:
    """What files and names bring into messages does not steer the terminal, nor who reads ``log.txt`` there.

    For when Detectron2 has set its handlers up; doing it twice is harmless.
    """
    for name in _LOGGERS:
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_NO_EFFECTS)


class _Held(logging.Handler):
    """Keeps messages until it is told where they go; later ones go there at once."""

    def __init__(self) -> None:
        super().__init__()
        self._records: list[logging.LogRecord] = []
        self._handle: Callable[[logging.LogRecord], object] = self._records.append

    def emit(self, record: logging.LogRecord) -> None:
        self._handle(record)

    def hand_to(self, handle: Callable[[logging.LogRecord], object]) -> None:
        for record in self._records:
            handle(record)
        self._records.clear()
        self._handle = handle


class RunLog:
    """A run's log, whose file is not touched before the run has its folder."""

    def __init__(self, folder: Path, held: _Held) -> None:
        self._folder = folder
        self._held = held
        self._file: logging.Handler | None = None

    def open(self) -> None:
        """Append to ``log.txt`` what was said so far and what will be.

        Raises:
            FailureError: the folder cannot be written to.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = logging.FileHandler(self._folder / "log.txt", encoding="utf-8")
        except OSError as e:
            raise FailureError(f"cannot write {self._folder}: {e.strerror or e}", hint="choose another folder") from e
        self._file.setFormatter(LogFormatter("[%(asctime)s %(name)s]: %(message)s", datefmt="%m/%d %H:%M:%S"))
        self._held.hand_to(self._file.handle)

    def close(self) -> None:
        """After it nothing is written; what was never given a file is lost."""
        if self._file is not None:
            self._file.close()


@contextlib.contextmanager
def run_log(folder: Path) -> Iterator[RunLog]:
    """Within the block Detectron2's messages and ours are for ``folder/log.txt``, once it is opened; printed, or
    whatever the caller's handlers do, are only those that the root logger's level lets pass."""
    without_tracebacks()
    held, onwards = _Held(), _Onwards(logging.getLogger().getEffectiveLevel())
    log = RunLog(folder, held)
    with _handlers(held, onwards, level=min(logging.INFO, onwards.level)):
        try:
            yield log
        finally:
            log.close()


@contextlib.contextmanager
def held_messages() -> Iterator[Callable[[], None]]:
    """Within the block Detectron2's messages and ours go nowhere; the function that it gives, called when Detectron2's
    set-up is done, hands them on. Where an error left the block nobody needs them: it says in one line why."""
    without_tracebacks()
    held = _Held()
    with _handlers(held, level=logging.INFO, alone=True):
        yield lambda: held.hand_to(lambda record: logging.getLogger(record.name).handle(record))


@contextlib.contextmanager
def _handlers(
    own: logging.Handler, further: logging.Handler | None = None, *, level: int, alone: bool = False
) -> Iterator[None]:
    """Within the block the loggers have ``own`` besides their handlers, or ``alone``; and ``further`` where they hand
    on to the root logger."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(each.level, each.propagate, each.handlers) for each in loggers]
    for each in loggers:
        onwards = [further] if each.propagate and further is not None else []
        each.handlers = [*([] if alone else each.handlers), own, *onwards]
        each.setLevel(level)
        each.propagate = False
    try:
        yield
    finally:
        for each, (former, propagate, handlers) in zip(loggers, before):
            each.handlers = [*handlers, *(h for h in each.handlers if h not in (own, further, *handlers))]
            each.setLevel(former)
            each.propagate = propagate


class _Onwards(logging.Handler):
    """Hands on to the root logger's handlers what is of its level."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger().callHandlers(record)


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Swallow what pycocotools prints: its numbers are in the results."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
