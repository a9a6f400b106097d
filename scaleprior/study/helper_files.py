"""Files of a study that help and are no results: no study stops for one that cannot be read or written.

A power cut may leave them empty, since they are written many times a second and so never flushed to the disk.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scaleprior.errors import UserError
from scaleprior.files import WriteError, write_json
from scaleprior.parsing import read_json
from scaleprior.wording import shown

__all__ = ["read_helper", "say_once", "without_hint", "write_helper"]

logger = logging.getLogger(__name__)

_BYTES = 1 << 20  # honest ones have some hundred


@functools.cache
def say_once(message: str) -> None:
    """Warn, once a process: whoever shows a study looks at its files several times a second."""
    logger.warning("%s", message)


def without_hint(error: UserError) -> str:
    """What is wrong, for who does something else about it."""
    return str(error).removesuffix(f"; {error.hint}")


def read_helper(path: Path, *, what: str, fits: Callable[[Any], bool]) -> Any:
    """What a JSON file holds; None where it is not there, or of no use, which is said once.

    Args:
        what: the file is, for the warning.
        fits: whether it holds what it should.
    """
    try:
        raw = read_json(path, what=what, limit=_BYTES)
    except UserError as e:
        if not isinstance(e.__cause__, FileNotFoundError):
            say_once(f"{without_hint(e)}; it is left aside")
        return None
    if fits(raw):
        return raw
    say_once(f"{what} {path} is damaged: it holds {shown(raw)}; it is left aside")
    return None


def write_helper(path: Path, value: Any) -> None:
    """Write a JSON file, atomically but not durably; that it cannot be written is said once."""
    try:
        write_json(path, value, durable=False)
    except WriteError as e:  # without its sizes, which are others each time
        reason = getattr(e.__cause__, "strerror", None) or e.__cause__
        say_once(f"cannot write {path}: {reason}; it goes on without")
