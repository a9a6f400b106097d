"""Checking of YAML entries: every complaint names the file, the entry and the key, and says what would be right."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from scaleprior.backbones.zoo.hashes import HASH_PATTERN
from scaleprior.errors import UserError
from scaleprior.files import is_number
from scaleprior.parsing import read_yaml as read_parsed
from scaleprior.wording import shown

__all__ = [
    "COUNT",
    "FLAG",
    "HASH",
    "NAME_PATTERN",
    "NOT_NEGATIVE",
    "NUMBER",
    "SECTION",
    "SHA256",
    "TEXT",
    "TRIPLE",
    "URL",
    "Kind",
    "check_entry",
    "list_of",
    "mapping_of",
    "one_of",
    "optional",
    "read_yaml",
]

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Names are also file names and the host part of a URI: no slashes, no leading dot."""


@dataclass(frozen=True)
class Kind:
    """What the value of a key is to be.

    Attributes:
        words: for the hint of an error, after "give".
        fits: whether a value is of this kind.
        required: the key must be there; otherwise it may be absent or null.
    """

    words: str
    fits: Callable[[Any], bool]
    required: bool = True


def _pattern(pattern: str) -> Callable[[Any], bool]:
    compiled = re.compile(pattern)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


TEXT = Kind("text", lambda v: isinstance(v, str) and bool(v.strip()))
COUNT = Kind("a whole number of at least 1", lambda v: type(v) is int and v >= 1)
FLAG = Kind("true or false", lambda v: isinstance(v, bool))
NUMBER = Kind("a number", is_number)
NOT_NEGATIVE = Kind("a number of at least 0 such as 1.0e-5", lambda v: is_number(v) and v >= 0)
TRIPLE = Kind("three numbers", lambda v: isinstance(v, list) and len(v) == 3 and all(map(is_number, v)))
SECTION = Kind("keys and values", lambda v: isinstance(v, Mapping))
SHA256 = Kind("64 hexadecimal digits", _pattern("[0-9a-f]{64}"))
HASH = Kind("sha256: or md5: with 8 hexadecimal digits or more", _pattern(HASH_PATTERN))
URL = Kind("an http(s) address", _pattern(r"https?://[^\s/]+/\S+"))


def one_of(*values: Any) -> Kind:
    """One of ``values``."""
    return Kind(f"one of {', '.join(map(str, values))}", lambda v: v in values)


def list_of(kind: Kind) -> Kind:
    """A list, not empty, of values of ``kind``."""
    return Kind(f"a list, each {kind.words}", lambda v: isinstance(v, list) and bool(v) and all(map(kind.fits, v)))


def mapping_of(keys: Mapping[str, Kind]) -> Kind:
    """Keys out of ``keys``, those that are required among them, each with a value of its kind."""

    def fits(value: Any) -> bool:
        if not isinstance(value, Mapping) or not set(value) <= set(keys):
            return False
        return all(kind.fits(value[key]) if key in value else not kind.required for key, kind in keys.items())

    words = ", ".join(f"{key} ({kind.words}{'' if kind.required else ', if any'})" for key, kind in keys.items())
    return Kind(f"keys and values: {words}", fits)


def optional(kind: Kind) -> Kind:
    """The same, but the key may be absent or null."""
    return replace(kind, required=False)


def check_entry(name: Any, value: Any, keys: Mapping[str, Kind], *, where: str) -> dict[str, Any]:
    """``value`` as a dict, without its null keys.

    Args:
        where: the file, for error messages.

    Raises:
        UserError: names file, entry and key.
    """

    def wrong(message: str, hint: str) -> UserError:
        return UserError(f"{where}: entry {name}: {message}", hint=hint)

    if not NAME_PATTERN.fullmatch(str(name)):
        raise wrong("has a name that cannot be part of a URI", "use letters, digits, '.', '_' and '-', at most 100")
    if not isinstance(value, Mapping):
        raise wrong(f"is {shown(value)}", "keys and values are needed")
    for key in value:
        if key not in keys:
            raise wrong(f"unknown key {shown(key)}", f"known: {', '.join(keys)}")
    for key, kind in keys.items():
        if value.get(key) is None:
            if kind.required:
                raise wrong(f"key {key} is missing", f"give {kind.words}")
        elif not kind.fits(value[key]):
            raise wrong(f"key {key} is {shown(value[key])}", f"give {kind.words}")
    return {key: found for key, found in value.items() if found is not None}


if TYPE_CHECKING:
    _SafeLoader = yaml.SafeLoader
else:
    _SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where PyYAML was built with it: 10 times faster


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        UserError: unreadable, not YAML, not a mapping, or a key that is there twice.
    """
    raw = read_parsed(path, what="catalogue", loader=_StrictLoader)  # a SafeLoader: plain values only
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds no mapping", hint="see model_zoo/ for examples")
    return raw


class _StrictLoader(_SafeLoader):
    """A key written twice is an error: YAML would silently keep the second one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key_node.value!r} is there twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)
