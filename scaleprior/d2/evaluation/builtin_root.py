"""Where Detectron2 looks for its own sets, and the error for what is not there."""

from __future__ import annotations

import os
from pathlib import Path

from detectron2.data.datasets import builtin

from scaleprior.detect.data.names import no_such_place
from scaleprior.errors import UserError

__all__ = ["is_builtin", "missing_place"]

_ROOT = builtin._root  # $DETECTRON2_DATASETS when Detectron2 was imported


def is_builtin(path: str) -> bool:
    """Whether ``path`` lies where Detectron2 has its own sets."""
    return path.startswith(os.path.join(_ROOT, ""))


def missing_place(name: str, what: str, path: str) -> UserError:
    """The error for a set whose ``what`` is not at ``path``; of Detectron2's own it says where they are looked for."""
    if not is_builtin(path):
        return UserError(f"data set {name}: no {what} at {path}", hint="correct the path that it was registered with")
    return no_such_place(name, what, path, holds=f"{Path(path).relative_to(_ROOT).parts[0]}/")
