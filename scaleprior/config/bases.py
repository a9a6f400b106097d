"""Reads a config file with the files that it is based on, each of them once, however often they are named."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from scaleprior.config.arithmetic import ArithmeticLoader, ArithmeticTextError
from scaleprior.errors import UserError
from scaleprior.parsing import parse_yaml, read_text
from scaleprior.wording import one_line, shown

__all__ = ["CONFIG_FILE", "OWN_FILE", "OWN_FILE_BEGINS", "is_lazy_config", "with_bases"]

_BASE = "_BASE_"
CONFIG_FILE, OWN_FILE = "config.yaml", "scaleprior.yaml"
"""What a run leaves of its config (``saved.py``): Detectron2's keys, and on top of them ours."""
OWN_FILE_BEGINS = f"{_BASE}: {CONFIG_FILE}\n"
_BYTES = 1 << 20
"""Of one file: the largest of Detectron2's has 5 KB, and PyYAML takes 10 s for so many."""


def is_lazy_config(path: Path) -> bool:
    """Whether a file is a LazyConfig of Detectron2's: Python, or the YAML that is saved of one."""
    if path.suffix == ".py":
        return True
    with contextlib.suppress(UserError):
        return _is_lazy(read_text(path, limit=_BYTES))
    return False


def _is_lazy(text: str) -> bool:
    return re.search(r"^[ \t]+_target_:|[{,]\s*_target_:", text, re.MULTILINE) is not None


def with_bases(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Path and content of ``path`` and of its bases, ``path`` last; where they differ, the later one counts.

    fvcore reads a base as often as somebody names it, which doubles with each level of a diamond. What it sets counts
    the last time alone, so the files are walked from the last to the first, and one that comes again is passed by.

    Raises:
        UserError: a missing file, a circle, one that is a LazyConfig or no YAML, or bases that are no names.
    """
    contents: dict[Path, tuple[str, dict[str, Any]]] = {}
    below: dict[Path, None] = {}  # the files whose bases are being read, ``path`` first
    waiting: list[Path | None] = [path]  # None: all bases of the last of those are read
    while waiting:
        following = waiting.pop()
        if following is None:
            below.popitem()
            continue
        file = _whole_of_run(following, below)
        full = _full(file)
        if full in below:
            raise UserError(f"config {file} is its own {_BASE}", hint="break the circle")
        if full in contents:
            continue
        if below and not os.path.lexists(file):
            of = next(reversed(below))
            raise UserError(f"config file not found: {file} ({_BASE} of {of})", hint="correct the name")
        content = _content(file)
        waiting += [None, *_bases(content.pop(_BASE, []), file)]
        contents[full] = str(file), content
        below[full] = None
    return list(reversed(contents.values()))


def _full(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a null character: refused where it is read
        return path


def _content(path: Path) -> dict[str, Any]:
    """What one file says, ``_BASE_`` included."""
    python = path.suffix == ".py"
    text = "" if python else read_text(path, what="config", limit=_BYTES)
    if python or _is_lazy(text):
        raise UserError(
            f"config {path} is a LazyConfig, and what runs here is identified by its YAML keys",
            hint="take a YAML; scaleprior.model_zoo.with_backbone puts a backbone under a LazyConfig, for Detectron2's "
            "own lazyconfig_train_net.py",
        )
    try:
        content = parse_yaml(text, where=f"config {path}", loader=ArithmeticLoader)
    except ArithmeticTextError as e:
        raise UserError(f"config {path}: {e}") from e
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"config {path} holds a {type(content).__name__}, not a mapping", hint="see configs/")
    return content


def _bases(named: Any, path: Path) -> list[Path]:
    """The files that ``_BASE_`` of ``path`` names, in their order."""
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"config {path}: {_BASE} is {shown(named)}", hint="name one file, or a list of files")
    try:
        return [path.parent / Path(name).expanduser() for name in names]
    except RuntimeError as e:  # ~user, of whom nobody knows
        raise UserError(f"config {path}: {_BASE} is {shown(named)}: {one_line(e)}", hint="correct the name") from e


def _whole_of_run(path: Path, below: Collection[Path]) -> Path:
    """The file that holds the whole config of a run, where ``path`` is the half of it that stock Detectron2 reads."""
    own = path.with_name(OWN_FILE) if path.name == CONFIG_FILE else path
    if own is path or _full(own) in below:
        return path
    with contextlib.suppress(UserError):
        if read_text(own, limit=_BYTES).startswith(OWN_FILE_BEGINS):
            return own
    return path
