"""What ``corpus.json`` says of an index, field by field; a saved fraction has the same in its footer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from scaleprior.corpus.names import is_text, is_texts
from scaleprior.errors import UserError
from scaleprior.wording import shown

__all__ = ["READABLE_SCHEMA", "checked_facts"]

READABLE_SCHEMA = 1
_MOST_IMAGES = 1 << 40  # so that what is computed from them fits into 64 bits
_HEX = re.compile("[0-9a-f]{64}")


def checked_facts(facts: Any, *, where: str) -> dict[str, Any]:
    """``facts`` with every field that is read of the type that it was written with.

    Args:
        where: they are from, for messages.

    Raises:
        UserError: another schema, a field that is not there, or one of another type.
    """
    version = facts.get("schema") if isinstance(facts, Mapping) else None
    if isinstance(version, bool) or version != READABLE_SCHEMA:
        raise UserError(
            f"{where} has index schema {shown(version)}, this version reads {READABLE_SCHEMA}",
            hint="build the index again",
        )
    for name, field in _FIELDS.items():
        if name not in facts and not field.optional:
            raise UserError(f"{where} does not say the index' {name}", hint="build the index again")
        if name in facts and not field.fits(facts[name]):
            raise UserError(
                f"{where} says that the index' {name} is {shown(facts[name])}, which is not {field.words}",
                hint="build the index again",
            )
    return dict(facts)


class _Field(NamedTuple):
    """What a field may be: a test of its value, the same in words, and whether old indexes may lack it."""

    fits: Callable[[Any], bool]
    words: str
    optional: bool = False


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_IMAGES


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _HEX.fullmatch(value) is not None


def _is_path(value: Any) -> bool:
    return is_text(value) and value != "" and "\0" not in value


def _counts(*names: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Mapping) and all(_is_count(value.get(name)) for name in names)


def _is_prefix(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and _is_digest(value[0]) and _is_count(value[1])


def _has_kind(value: Any) -> bool:
    return isinstance(value, Mapping) and is_text(value.get("kind"))


def _are_digests(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_digest, value.values()))


def _are_warnings(value: Any) -> bool:
    told = list(value.values()) if isinstance(value, Mapping) else [None]
    return all(isinstance(t, Mapping) and _is_count(t.get("count")) and is_texts(t.get("examples")) for t in told)


_FIELDS = {
    "name": _Field(is_text, "a text"),
    "salt": _Field(is_text, "a text"),
    "images": _Field(lambda value: _is_count(value) and value > 0, "a number of images"),
    "fingerprint": _Field(_is_digest, "64 hexadecimal digits"),
    "root": _Field(_is_path, "a folder"),
    "source": _Field(_has_kind, 'an object with the text "kind"'),
    "label_space": _Field(_counts("nodes", "leaves"), 'an object with the numbers "nodes" and "leaves"'),
    "skipped": _Field(_counts("count"), 'an object with the number "count"'),
    "verified": _Field(lambda value: isinstance(value, bool), "true or false"),
    "turned": _Field(_is_count, "a number of images", optional=True),
    "columns": _Field(_are_digests, "an object with a digest for each column", optional=True),
    "warnings": _Field(_are_warnings, "counts and examples by kind", optional=True),
    "prefix_of": _Field(_is_prefix, "a fingerprint and a number of images", optional=True),
}
