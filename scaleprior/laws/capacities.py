"""Capacities of architectures as people name them: ``R-50=25.6M``, or a name whose parameters are documented."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from scaleprior.errors import UserError
from scaleprior.laws.spelling import meant
from scaleprior.laws.words import number
from scaleprior.wording import parameter

__all__ = ["PARAMETERS", "capacities", "in_words"]

PARAMETERS = {
    "R-18": 11_689_512,
    "R-34": 21_797_672,
    "R-50": 25_557_032,
    "R-101": 44_549_160,
    "R-152": 60_192_808,
}
"""Parameters with the head of 1,000 classes, as torchvision documents them (``num_params`` of its weights)."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?(?:e\d+)?)([kMGB]?)", re.ASCII)
_TIMES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}


def capacities(words: Sequence[str], measured: Collection[str]) -> tuple[dict[str, float], dict[str, float], list[str]]:
    """Read ``NAME=SIZE`` and ``NAME``.

    Args:
        words: such as ``R-50=25.6M``; a name alone must be one of :data:`PARAMETERS`.
        measured: names of laws; those that no word is about have the capacity of :data:`PARAMETERS`, if any.

    Returns:
        Capacities of the measured laws, of the others, and the names of both whose capacity is a default.

    Raises:
        UserError: a size that is none, a name that is unknown or there twice.
    """
    said: dict[str, float] = {}
    defaults: list[str] = []
    for word in words:
        named, equals, size = word.strip().rpartition("=")
        typed = named.strip() if equals else size
        name = meant(typed, measured) or typed
        if name in said:
            raise UserError(f"{parameter('capacity')} names {name} twice", hint="name it once")
        if equals:
            said[name] = _size(size.strip(), word)
        else:
            said[name] = _documented(name)
            defaults.append(name)
    for name in measured:
        if name not in said and (known := meant(name, PARAMETERS)):
            said[name] = float(PARAMETERS[known])
            defaults.append(name)
    known = {name: said[name] for name in measured if name in said}
    return known, {name: size for name, size in said.items() if name not in known}, defaults


def in_words(known: dict[str, float], asked: dict[str, float], defaults: Collection[str]) -> str:
    """The capacities that are used, and where defaults come from."""
    sizes = ", ".join(f"{name} {number(size)}" for name, size in {**known, **asked}.items())
    source = f" ({', '.join(defaults)}: parameters as torchvision documents them)" if defaults else ""
    return f"Capacities: {sizes}{source}"


def _size(text: str, word: str) -> float:
    found = _SIZE.fullmatch(text)
    if not found or not float(found[1]):
        raise UserError(f"{parameter('capacity')} {word!r}: {text!r} is no size", hint="such as 25.6M or 25557032")
    return float(found[1]) * _TIMES[found[2]]


def _documented(name: str) -> float:
    known = meant(name, PARAMETERS)
    if known is None:
        raise UserError(
            f"how many parameters {name!r} has is not known here",
            hint=f"give {name}=SIZE, such as {name}=44.5M; known are {', '.join(PARAMETERS)}",
        )
    return float(PARAMETERS[known])
