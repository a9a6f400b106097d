"""Who wrote a file: the version and the commit of the running ScalePrior."""

from __future__ import annotations

import contextlib
import functools
import subprocess
from pathlib import Path
from typing import TypedDict

from scaleprior._version import __version__

__all__ = ["CreatedBy", "created_by"]


class CreatedBy(TypedDict):
    """Who wrote a file, as its JSON says it; the commit is a Git hash."""

    version: str
    commit: str


def created_by() -> CreatedBy:
    """Of the running ScalePrior; the commit is "unknown" where neither checkout nor build knew it."""
    return {"version": __version__, "commit": _commit()}


@functools.lru_cache(maxsize=1)
def _commit() -> str:
    """Asked once: the code that is running is that of the start, whatever is checked out since."""
    root = Path(__file__).resolve().parents[1]
    # Only our own checkout: an installed package may lie inside somebody else's repository.
    if (root / ".git").exists() and (root / "setup.py").exists():
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(
                ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
            )
            return done.stdout.strip() or "unknown"
    with contextlib.suppress(OSError):  # an installed package carries the commit that it was built from
        return (Path(__file__).parent / "_data" / "commit.txt").read_text().strip() or "unknown"
    return "unknown"
