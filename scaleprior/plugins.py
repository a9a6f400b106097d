"""What other installed packages add: objects that they announce in an entry-point group, loaded when asked for by name.

The groups are ``scaleprior.engines``, ``scaleprior.trunks``, ``scaleprior.executors`` and ``scaleprior.forms``.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from scaleprior.errors import ScalePriorError, UserError
from scaleprior.wording import shown

__all__ = ["announced", "check_protocol", "find_announced", "load_announced", "package_of", "unknown_name"]


def announced(group: str) -> list[metadata.EntryPoint]:
    """The entry points of ``group`` in every installed package; nothing is loaded."""
    return list(metadata.entry_points(group=group))


def find_announced(group: str, name: str, what: str) -> Any | None:
    """The object that a package announces as ``name``; None where none does.

    Args:
        what: it is, for messages: "engine".

    Raises:
        UserError: two packages announce it, or its package does not load.
    """
    points = [point for point in announced(group) if point.name == name]
    if len(points) > 1:
        raise UserError(
            f"{what} {name!r} is announced by {' and '.join(map(package_of, points))}", hint="uninstall one of them"
        )
    return load_announced(points[0], what) if points else None


def load_announced(point: metadata.EntryPoint, what: str) -> Any:
    """The object behind an entry point.

    Raises:
        UserError: its package does not load; an error of ours that it raises is passed on.
    """
    try:
        return point.load()
    except ScalePriorError:
        raise
    except Exception as e:  # a stranger's module may raise anything
        raise UserError(
            f"{what} {point.name!r} of {package_of(point)} ({point.value}) does not load: {type(e).__name__}: {e}",
            hint="repair or uninstall that package",
        ) from e


def check_protocol(thing: Any, protocol: type, what: str) -> None:
    """Refuse a stranger's object that lacks something of ``protocol``, before it is relied upon.

    Args:
        what: it is, for the message: "engine 'mine'".

    Raises:
        UserError: names what is missing.
    """
    methods = [name for name, value in vars(protocol).items() if callable(value) and not name.startswith("_")]
    missing = [name for name in protocol.__annotations__ if not hasattr(thing, name)]
    missing += [name for name in methods if not callable(getattr(thing, name, None))]
    if missing:
        raise UserError(
            f"{what} is a {type(thing).__name__} without {', '.join(missing)}",
            hint=f"give it all that {protocol.__module__}.{protocol.__name__} has",
        )


def package_of(point: metadata.EntryPoint) -> str:
    """The package that announces ``point``, in words."""
    return f"package {point.dist.name}" if point.dist else point.value


def unknown_name(what: str, name: str, known: Sequence[str]) -> UserError:
    """The error for a name that nobody has, with the nearest and all known ones."""
    lowered = {n.lower(): n for n in known}
    near = difflib.get_close_matches(name.lower(), lowered, n=1)
    suggestion = f"did you mean {lowered[near[0]]!r}? " if near else ""
    return UserError(f"unknown {what} {shown(name)}", hint=f"{suggestion}known are {', '.join(known)}")
