"""Reads JSON objects out of a study's files field by field: what is missing, unknown or of another kind is an error."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from scaleprior.errors import UserError
from scaleprior.files import is_number
from scaleprior.wording import shown

__all__ = ["MOST", "Fields", "are_numbers", "is_count"]

MOST = 2**63 - 1
"""The largest whole number that a table of results can hold."""


_SCALARS = (str, int, float, bool, type(None))


def is_count(value: Any, *, least: int = 0) -> bool:
    """Whether a value out of JSON is a whole number from ``least`` to :data:`MOST`."""
    return type(value) is int and least <= value <= MOST


def are_numbers(value: Any, *, least: float = -math.inf) -> bool:
    """Whether a value out of JSON is an object of finite numbers, none below ``least``."""
    return _all(value, lambda item: is_number(item) and item >= least)


class Fields:
    """A JSON object, whose fields are asked for by kind.

    Args:
        raw: what the file holds there.
        where: the file, and the place in it, for messages.
        hint: what to do about a damaged one.

    Raises:
        UserError: ``raw`` is no object.
    """

    def __init__(self, raw: Any, *, where: str, hint: str) -> None:
        self.where = where
        self.hint = hint
        if not isinstance(raw, dict):
            raise self.damaged(f"it holds {shown(raw)}")
        self.raw: Mapping[str, Any] = raw

    def damaged(self, said: str) -> UserError:
        """The error of an object of which ``said`` is true."""
        return UserError(f"{self.where} is damaged, or of another version: {said}", hint=self.hint)

    def only(self, known: Collection[str]) -> None:
        """Refuse fields beside ``known``.

        Raises:
            UserError: there is one.
        """
        for name in self.raw:
            if name not in known:
                raise self.damaged(f"it has {shown(name)}, which nobody knows")

    def text(self, name: str, default: str | None = None) -> str:
        """A text; ``default`` where there is none, unless that is None."""
        return self._get(name, default, lambda value: isinstance(value, str))

    def whole(self, name: str, *, least: int = 0) -> int:
        """A whole number from ``least`` to :data:`MOST`."""
        return self._get(name, None, lambda value: is_count(value, least=least))

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number."""
        return self._get(name, default, is_number)

    def texts(self, name: str, default: tuple[str, ...] | None = None, *, count: int | None = None) -> tuple[str, ...]:
        """A list of texts, of ``count`` where that is given."""

        def fits(value: Any) -> bool:
            is_list = isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
            return is_list and count in (None, len(value))

        return tuple(self._get(name, default, fits))

    def items(self, name: str) -> list[Any]:
        """A list of whatever."""
        return self._get(name, None, lambda value: isinstance(value, list))

    def numbers(self, name: str, default: Mapping[str, float] | None = None) -> dict[str, float]:
        """An object of finite numbers, none below 0."""
        return dict(self._get(name, default, lambda value: are_numbers(value, least=0)))

    def words(self, name: str) -> dict[str, str]:
        """An object of texts."""
        return dict(self._get(name, None, lambda v: _all(v, lambda item: isinstance(item, str))))

    def facts(self, name: str) -> dict[str, Any]:
        """An object of texts, numbers and the like."""
        return dict(self._get(name, None, lambda v: _all(v, lambda item: isinstance(item, _SCALARS))))

    def inner(self, name: str) -> Fields:
        """The object that is the value of a field."""
        value = self._get(name, None, lambda value: isinstance(value, dict))
        return Fields(value, where=f"{self.where}: {name}", hint=self.hint)

    def optional(self, name: str) -> Fields | None:
        """As :meth:`inner`; None where the value is null."""
        return None if self.raw.get(name, ...) is None else self.inner(name)

    def _get(self, name: str, default: Any, fits: Callable[[Any], bool]) -> Any:
        if name not in self.raw:
            if default is None:
                raise self.damaged(f"{name} is missing")
            return default
        value = self.raw[name]
        if not fits(value):
            raise self.damaged(f"{name} is {shown(value)}")
        return value


def _all(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(map(fits, value.values()))
