"""Where Detectron2's messages go when a library call, not a tool, runs it."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path

from scaleprior.errors import FailureError, ScalePriorError

__all__ = ["quiet_stdout", "run_log", "without_tracebacks"]

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


@contextlib.contextmanager
def run_log(folder: Path) -> Iterator[None]:
    """Within the block Detectron2's messages and ours are appended to ``folder/log.txt``; printed, or whatever the
    caller's handlers do, are only those that the root logger's level lets pass.

    Raises:
        FailureError: the folder cannot be written to.
    """
    without_tracebacks()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    except OSError as e:
        raise FailureError(f"cannot write {folder}: {e.strerror or e}", hint="choose another folder") from e
    handler.setFormatter(logging.Formatter("[%(asctime)s %(name)s]: %(message)s", datefmt="%m/%d %H:%M:%S"))
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(each.level, each.propagate) for each in loggers]
    onwards = _Onwards(logging.getLogger().getEffectiveLevel())
    for each in loggers:
        each.addHandler(handler)
        if each.propagate:
            each.addHandler(onwards)
        each.setLevel(min(logging.INFO, onwards.level))
        each.propagate = False
    try:
        yield
    finally:
        for each, (level, propagate) in zip(loggers, before):
            each.removeHandler(handler)
            each.removeHandler(onwards)
            each.setLevel(level)
            each.propagate = propagate
        handler.close()


class _Onwards(logging.Handler):
    """Hands on to the root logger's handlers what is of its level."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger().callHandlers(record)


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Swallow what pycocotools prints: its numbers are in the results."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
