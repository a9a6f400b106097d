"""The values that a key takes: something a checker can ask, and the words that say it to people."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["ANY", "POSITIVE", "SHARE", "Anything", "Each", "Legal", "Number", "OneOf", "above", "at_least", "one_of"]

_COUNTS = {1: "one", 2: "two", 3: "three", 4: "four"}


class Legal(Protocol):
    """A set of values."""

    def takes(self, value: Any) -> bool:
        """Whether ``value`` is one of them."""
        ...

    def words(self, kind: type) -> str:
        """What to give, as the end of "give ..." or "take ...": ``a whole number of at least 1``.

        Args:
            kind: the key's type, or that of a list's items.
        """
        ...


@dataclass(frozen=True)
class Anything(Legal):
    """Every value of the key's type: texts, switches, and what other code judges.

    Args:
        what: says more than the type does, such as "a device".
    """

    what: str = ""

    def takes(self, value: Any) -> bool:
        return True

    def words(self, kind: type) -> str:
        names = {bool: "True or False", str: "text", int: "a whole number", float: "a number"}
        return self.what or names.get(kind, "a list")


@dataclass(frozen=True)
class OneOf(Legal):
    """One of a few values."""

    values: tuple[Any, ...]

    def takes(self, value: Any) -> bool:
        return value in self.values

    def words(self, kind: type) -> str:
        words = ", ".join(str(v) or repr(v) for v in self.values)
        return f"one of {words}" if len(self.values) > 1 else words


@dataclass(frozen=True)
class Number(Legal):
    """A finite number between two limits.

    Args:
        low: the lower limit, itself a number of the set unless ``above`` leaves it out.
        high: the upper limit, unless ``below`` leaves it out.
        above: only numbers above ``low``.
        below: only numbers below ``high``.
        also: legal values outside the limits.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    also: tuple[float, ...] = ()

    def takes(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        inside = self.low < value if self.above else self.low <= value
        inside = inside and (value < self.high if self.below else value <= self.high)
        return value in self.also or (inside and (isinstance(value, int) or math.isfinite(value)))

    def words(self, kind: type) -> str:
        return f"{'a whole number' if kind is int else 'a number'}{self.limits()}"

    def limits(self) -> str:
        """``" above 0"``, ``" from 0 to 1"``, ``" of at least 1"``; "" without limits."""
        low = "" if math.isinf(self.low) else f" {'above' if self.above else 'of at least'} {self.low}"
        high = "" if math.isinf(self.high) else f" {'below' if self.below else 'at most'} {self.high}"
        plain = low and high and not (self.above or self.below)
        text = f" from {self.low} to {self.high}" if plain else " and".join(filter(None, (low, high)))
        return text + "".join(f", or {v}" for v in self.also)


@dataclass(frozen=True)
class Each(Legal):
    """A list, each of whose items is legal.

    Args:
        item: what each is; None where other code judges.
        lengths: how many there may be; empty = any number from ``least`` up.
        least: of items.
        rising: no item is smaller than the one before.
        deep: the items may lie in lists within the list.
        types: those that items are read as, the first that fits; empty = the type of the default's items.
    """

    item: Number | OneOf | Anything
    lengths: tuple[int, ...] = ()
    least: int = 0
    rising: bool = False
    deep: bool = False
    types: tuple[type, ...] = ()

    def takes(self, value: Any) -> bool:
        if not isinstance(value, (list, tuple)) or len(value) < self.least:
            return False
        if self.deep and any(isinstance(v, (list, tuple)) for v in value):
            return all(self.takes(v) for v in value)
        if self.lengths and len(value) not in self.lengths:
            return False
        if self.rising and any(a > b for a, b in itertools.pairwise(value)):
            return False
        return all(self.item.takes(v) for v in value)

    def words(self, kind: type) -> str:
        count = " or ".join(_COUNTS[n] for n in self.lengths)
        if self.least:
            count = f"{_COUNTS[self.least]} or more"
        if isinstance(self.item, Number):
            whole = "whole " if (self.types or (kind,)) == (int,) else ""
            noun = f"{whole}number{'' if self.lengths == (1,) else 's'}{self.item.limits()}"
        elif isinstance(self.item, OneOf):
            noun = f"names out of {', '.join(map(str, self.item.values))}"
        else:
            noun = self.item.what or "a list"
        rising = ", none smaller than the one before" if self.rising else ""
        deep = ", in one list or several" if self.deep else ""
        return f"{count} {noun}".strip() + rising + deep


def one_of(*values: Any) -> OneOf:
    """One of ``values``."""
    return OneOf(values)


def at_least(low: float) -> Number:
    """``low`` or more."""
    return Number(low)


def above(low: float) -> Number:
    """More than ``low``."""
    return Number(low, above=True)


ANY = Anything()
"""Every value of the key's type."""

POSITIVE = above(0)
"""More than 0."""

SHARE = Number(0, 1)
"""From 0 to 1."""
