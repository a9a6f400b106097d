"""What the reader of pickles puts in place of the names and objects in a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scaleprior.backbones.readers.limits import Limits, RefusedFileError

__all__ = ["Inert", "KnownName", "OrderedMapping", "StandIn", "check_key", "put_entries"]

_KEYS = (str, bytes, int, float, bool, type(None))


@dataclass(frozen=True)
class KnownName:
    """A name that a pickle may use.

    Attributes:
        name: module and name.
        make: gives the stand-in for what calling that name would give; None = a mere name, which is not called.
        inert: of a class whose objects are passed over.
    """

    name: str
    make: Callable[..., Any] | None = None
    inert: bool = False


@dataclass(frozen=True)
class Inert:
    """An object that was passed over: its class is known to hold no weights, and nothing of it is kept."""

    name: str


class StandIn:
    """What stands for an object whose state comes after it."""

    def build(self, state: Any) -> None:
        """Take the state that a pickle sets."""
        raise NotImplementedError


class OrderedMapping(dict):
    """Stands for OrderedDict; its attributes (``_metadata``) hold nothing that weights need."""


def put_entries(target: Any, items: Sequence[Any], limits: Limits) -> None:
    """Put key, value, key, value ... into a dict.

    Raises:
        RefusedFileError: "duplicate" for a key that is there already; too many; not a dict; a key that is not plain.
    """
    if not isinstance(target, dict) or len(items) % 2:
        raise RefusedFileError("damaged", "entries for something that is not a dict")
    if len(target) + len(items) // 2 > limits.keys:
        raise RefusedFileError("size", f"a dict of more than {limits.keys:,} entries")
    for at in range(0, len(items), 2):
        key = items[at]
        check_key(key)
        if key in target:
            raise RefusedFileError("duplicate", f"it holds {str(key)[:80]!r} twice")
        target[key] = items[at + 1]


def check_key(key: Any) -> None:
    """Plain keys only: deep tuples would be hashed by recursion, and large integers can be made to collide.

    Raises:
        RefusedFileError: anything else.
    """
    for part in key if isinstance(key, tuple) else (key,):
        if not isinstance(part, _KEYS) or (isinstance(part, int) and abs(part) >= 1 << 60):
            raise RefusedFileError("damaged", f"a key of type {type(part).__name__}")
