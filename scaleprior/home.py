"""ScalePrior's own folder, for what it keeps between runs: ``$SCALEPRIOR_HOME``, by default ``~/.cache/scaleprior``."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["home_folder"]


def home_folder() -> Path:
    """The folder that the environment names now; it need not exist."""
    return Path(os.environ.get("SCALEPRIOR_HOME") or "~/.cache/scaleprior").expanduser()
