"""The gate for names that become paths: what a file, a spec or an index names lies below a folder, or is refused.

A name that leads out of its folder (``../x``, ``/etc/passwd``) reads what nobody meant to give, or writes where nobody
looks. Links are followed: who may make links in a folder may put the file itself there.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from scaleprior.errors import UserError
from scaleprior.wording import shown

__all__ = ["check_name", "inside", "is_inside"]

_DRIVE = re.compile(r"[A-Za-z]:")
_LONGEST = 255  # bytes, of most file systems


def is_inside(name: str) -> bool:
    """Whether ``name``, with ``/`` between its parts, leads to something below the folder that it is looked up in."""
    parts = PurePosixPath(name).parts
    return bool(parts) and name[0] != "/" and ".." not in parts and "\0" not in name


def inside(root: str | Path, name: str, *, what: str) -> Path:
    """``root / name``.

    Args:
        what: what is named and by whom, for the message: "a.json: file_name of image 3".

    Raises:
        UserError: it would not lie below ``root``.
    """
    if not is_inside(name):
        raise UserError(f"{what} is {shown(name)}, which does not lie below {root}", hint="name it from there")
    return Path(root) / name


def check_name(name: str, *, what: str) -> str:
    """``name``, if it can be that of one file or folder, on any file system.

    Raises:
        UserError: it is empty, a path, hidden, too long, or holds what is no letter; names ``what`` it was to be.
    """
    steers = not name.isprintable()
    if not name or name[0] == "." or "/" in name or "\\" in name or steers or _DRIVE.match(name):
        raise UserError(
            f"{what} is {shown(name)}, which cannot be the name of a file",
            hint="take letters, digits, and . _ - behind the first of them",
        )
    if len(name.encode()) > _LONGEST:
        raise UserError(f"{what} has {len(name):,} characters, too many for a file's name", hint="shorten it")
    return name
