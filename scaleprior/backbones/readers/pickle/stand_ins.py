"""What the reader of pickles puts in place of the names and objects in a file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from scaleprior.backbones.readers.limits import Limits, RefusedFileError
from scaleprior.backbones.readers.pickle.notorious import is_notorious
from scaleprior.wording import shown

__all__ = [
    "HINT_CODE",
    "Instance",
    "Named",
    "OddKey",
    "OrderedMapping",
    "StandIn",
    "called",
    "put_entries",
    "put_members",
]

HINT_CODE = "do not open it with pickle or torch.load either; ask for a .safetensors file"
_KEYS = (str, bytes, int, float, bool, type(None))
_LARGE = 1 << 60
_SHORT = 16  # parts of a tuple that is a key
_FEW = 1024  # entries of a dict or set up to which tuples are taken as keys


@dataclass(frozen=True)
class Named:
    """A class, function or constant that a pickle names; it is not imported.

    Attributes:
        name: module and name.
        make: gives what stands for the result of calling it; None = that is an :class:`Instance`.
    """

    name: str
    make: Callable[..., Any] | None = None


@dataclass(eq=False, slots=True)
class Instance:
    """Stands for an object of a class that the reader does not know: it keeps what the pickle hands over, as it came.

    Attributes:
        name: the class's, or that of the function that would make it.
        arguments: of the call that would make it.
        state: what ``__setstate__`` would get, or what ``__dict__`` would be.
        entries: key -> value of a dict's subclass.
        members: of a list's or set's subclass.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    entries: dict[Any, Any] | None = None
    members: list[Any] | None = None

    def put(self, items: Sequence[Any], limits: Limits) -> None:
        """Entries: key, value, key, value ..."""
        if self.entries is None:
            self.entries = {}
        put_entries(self.entries, items, limits)

    def extend(self, items: Sequence[Any]) -> None:
        """Members."""
        if self.members is None:
            self.members = []
        self.members.extend(items)


def called(callee: Any, arguments: Any) -> Any:
    """What stands for ``callee(*arguments)``, which is done only where the reader has something of its own for it.

    Raises:
        RefusedFileError: what is called is nothing that can be, or among the callables of attacks.
    """
    if isinstance(callee, Named) and callee.make is not None and isinstance(arguments, tuple):
        return callee.make(*arguments)
    if not isinstance(callee, (Named, Instance)) or not isinstance(arguments, tuple):
        what = f"it calls a {type(callee).__name__} with a {type(arguments).__name__}"
        raise RefusedFileError("code", f"{what}, which no weights need", hint=HINT_CODE)
    if is_notorious(callee.name):
        raise RefusedFileError("code", f"it calls {callee.name}, which is no part of weights", hint=HINT_CODE)
    return Instance(callee.name, arguments)


class StandIn:
    """What stands for an object whose state comes after it."""

    def build(self, state: Any) -> None:
        """Take the state that a pickle sets."""
        raise NotImplementedError


class OrderedMapping(dict):
    """Stands for OrderedDict; its attributes (``_metadata``) hold nothing that weights need."""


@dataclass(eq=False, slots=True)
class OddKey:
    """Stands for a key of another kind than texts and numbers; two of them are never the same."""

    value: Any


def put_entries(target: Any, items: Sequence[Any], limits: Limits) -> None:
    """Put key, value, key, value ... into a dict.

    Raises:
        RefusedFileError: "duplicate" for a key that is there already; too many; not a dict.
    """
    if not isinstance(target, dict) or len(items) % 2:
        raise RefusedFileError("damaged", "entries for something that is not a dict")
    if len(target) + len(items) // 2 > limits.keys:
        raise RefusedFileError("size", f"a dict of more than {limits.keys:,} entries")
    for at in range(0, len(items), 2):
        key = _key_for(items[at], target)
        if key in target:
            raise RefusedFileError("duplicate", f"it holds {shown(key)} twice")
        target[key] = items[at + 1]


def put_members(target: set[Any], items: Iterable[Any]) -> None:
    """Put members into a set."""
    for item in items:
        target.add(_key_for(item, target))


def _key_for(value: Any, target: Collection[Any]) -> Any:
    """The value if it is a plain key, else an :class:`OddKey`.

    Deep tuples would be hashed by recursion, and long ones anew each time. Large integers can be made to collide, and
    so can tuples of small ones: no secret is in their hash, as there is in that of texts. An optimiser's dict has
    parameters for keys.
    """
    if isinstance(value, tuple) and (len(value) > _SHORT or len(target) >= _FEW):
        return OddKey(value)
    for part in value if isinstance(value, tuple) else (value,):
        if not isinstance(part, _KEYS) or (isinstance(part, int) and abs(part) >= _LARGE):
            return OddKey(value)
    return value
