"""Which part of what determines a run is another one now, in words for who is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaleprior.wording import shown

__all__ = ["differing_parts"]

_MOST = 3  # keys that are named
# Parts whose fingerprints cover another part's: where that differs, they had to.
_FOLLOW = {"corpus": "label space", "held-out set": "label space", "config": "engine"}
_ABSENT = object()


def differing_parts(now: Mapping[str, Any], then: Mapping[str, Any]) -> str:
    """``label space (812 labels now, 800 then) and number of processes (2 now, 1 then)``; "" where none differs.

    Args:
        now, then: parts by their names, in JSON's types. A part is a number or a name, which is shown; a mapping with a
            "fingerprint", which is not, and counts, by what is counted; or the keys of a config, nested or dotted; None
            where there is none.
    """
    differ = [name for name in now if name in then and _other(now[name], then[name])]
    named = [name for name in differ if _FOLLOW.get(name) not in differ]
    said = [f"{name}{_how(now[name], then[name])}" for name in named]
    return " and ".join(filter(None, [", ".join(said[:-1]), *said[-1:]]))


def _other(now: Any, then: Any) -> bool:
    if isinstance(now, Mapping) and isinstance(then, Mapping) and "fingerprint" in now:
        return now["fingerprint"] != then.get("fingerprint")
    return now != then


def _how(now: Any, then: Any) -> str:
    """In brackets, or nothing where there is nothing to show."""
    if not isinstance(now, Mapping) or not isinstance(then, Mapping):
        return f" ({_short(now)} now, {_short(then)} then)"
    if "fingerprint" in now:
        counted = [f"{now[what]:,} {what} {_then(now[what], then.get(what))}" for what in now if what != "fingerprint"]
        return f" ({'; '.join(counted)})" if counted else ""
    keys, before = _dotted(now), _dotted(then)
    names = [key for key in dict.fromkeys([*keys, *before]) if keys.get(key, _ABSENT) != before.get(key, _ABSENT)]
    said = [f"{key} is {_value(keys, key)} now, {_value(before, key)} then" for key in names[:_MOST]]
    more = [f"and {len(names) - _MOST} more keys"] if len(names) > _MOST else []
    return f" ({'; '.join([*said, *more])})"


def _then(now: Any, then: Any) -> str:
    return "as then" if now == then else f"now, {then:,} then" if isinstance(then, int) else "now"


def _short(part: Any) -> str:
    if isinstance(part, Mapping):
        return "some"
    return "none" if part is None else str(part)


def _value(keys: Mapping[str, Any], key: str) -> str:
    return shown(keys[key], limit=60) if key in keys else "at its default"


def _dotted(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= _dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
