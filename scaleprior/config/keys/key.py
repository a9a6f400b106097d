"""A config key, declared once: what it is called, holds and means, who honours it, and what it changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from scaleprior.config.keys.legal import ANY, Each, Legal, Number, OneOf
from scaleprior.errors import UserError
from scaleprior.files import is_number
from scaleprior.parsing import parse_literal
from scaleprior.wording import shown

__all__ = [
    "DETECTION", "DETECTORS", "DETECTRON2", "EVALUATE", "EVERYBODY", "FINETUNE", "PRETRAIN", "PRETRAINING",
    "TORCHVISION", "Key", "Stage", "read_value",
]  # fmt: skip

Stage = Literal["pretrain", "finetune", "evaluate"]
"""What is computed: a backbone, a detector from it, a detector's AP."""

PRETRAIN: Stage = "pretrain"
FINETUNE: Stage = "finetune"
EVALUATE: Stage = "evaluate"
DETECTION: tuple[Stage, ...] = (FINETUNE, EVALUATE)

TORCHVISION = "torchvision"
DETECTRON2 = "detectron2"
PRETRAINING = "pretraining"
DETECTORS = (TORCHVISION, DETECTRON2)
EVERYBODY = (TORCHVISION, DETECTRON2, PRETRAINING)


@dataclass(frozen=True)
class Key:
    """One row of the table of keys.

    Attributes:
        name: dotted, as in ``KEY VALUE`` words.
        default: its type is the key's.
        text: what it means.
        changes: the stages whose results depend on its value; none = a run may go on, and a finished result stands,
            under another value.
        engines: who honours it: engines by their names, and "pretraining".
        legal: the values that these engines take.
        unit: of a number, such as "pixels".
        elsewhere: Detectron2 takes other values of it, too, so what is not ``legal`` needs its engine.
        fixed: a trained detector's weights depend on it: evaluating them under another value would be wrong in silence.
        by_content: the value says where something lies; what lies there counts in its place, by its fingerprint.
        replaces: keys that say the same in another way. Whoever sets this one over a file that set them means this one:
            they go back to their defaults.
        part_of: the switch, such as MODEL.MASK_ON, of the part that it describes: where that is off, it does nothing.
        since: version of the fingerprints (``config/fingerprint.py``) that always hold it; a key that came later
            enters a fingerprint only where it is not at its default, so that a new key re-runs nothing.
    """

    name: str
    default: Any
    text: str
    changes: tuple[Stage, ...]
    engines: tuple[str, ...]
    legal: Legal = ANY
    unit: str = ""
    elsewhere: bool = False
    fixed: bool = False
    by_content: bool = False
    replaces: tuple[str, ...] = ()
    part_of: str = ""
    since: int = 1

    @property
    def kind(self) -> type:
        """The type of values."""
        return float if self.default is None and isinstance(self.legal, Number) else type(self.default)

    @property
    def expected(self) -> str:
        """What to give, in words: "a whole number of at least 1", "one of off, bf16"."""
        items = _leaves(self.default) if isinstance(self.legal, Each) else [self.default]
        kind = self.kind if not isinstance(self.legal, Each) else type(items[0]) if items else str
        unit = f" ({self.unit})" if self.unit else ""
        none = ", or None" if self.default is None else ""
        return f"{self.legal.words(kind)}{unit}{none}"

    def check(self, value: Any, engine: str) -> None:
        """Refuse a value that ``engine`` does not take.

        Raises:
            UserError: names the key, its value and what is legal.
        """
        if (value is None and self.default is None) or self.legal.takes(value):
            return
        # Detectron2 knows more names and takes longer lists, but no other numbers.
        longer = isinstance(self.legal, Each) and replace(self.legal, lengths=()).takes(value)
        theirs = self.elsewhere and engine == TORCHVISION and (isinstance(self.legal, OneOf) or longer)
        needs = "; that needs the detectron2 engine" if theirs else ""
        raise UserError(f"{self.name} is {shown(value)}{needs}", hint=self._hint)

    def read(self, value: Any, origin: str) -> Any:
        """``value`` in the key's type: :func:`read_value`, and ``off`` and ``on``, which YAML takes for booleans.

        Raises:
            UserError: it is of another type; names the key, its value, where it was set and what is legal.
        """
        if isinstance(value, bool) and isinstance(self.legal, OneOf):
            word = "on" if value else "off"
            if {"on", "off"} & set(self.legal.values):
                return word
        if value is None and self.default is not None:
            raise _wrong_type(self.name, value, origin, self.kind, self._hint)
        value = read_value(self.name, value, self.kind, self.default, origin, self._hint)
        return self._items(value, origin) if isinstance(value, (list, tuple)) and self._types else value

    @property
    def _types(self) -> tuple[type, ...]:
        """Those of a list's items; empty where other code judges."""
        said = self.legal.types if isinstance(self.legal, Each) else ()
        found = {type(leaf) for leaf in _leaves(self.default)} if isinstance(self.default, (list, tuple)) else ()
        return said or tuple(found)

    def _items(self, value: Any, origin: str) -> Any:
        """A list with every item in the first type that it fits, in lists of lists, too."""

        def read(item: Any) -> Any:
            if isinstance(item, (list, tuple)):
                return type(item)(map(read, item))
            for kind in self._types:
                if (found := _converted(item, kind)) is not None:
                    return found
            names = " or ".join(kind.__name__ for kind in self._types)
            message = (
                f"{self.name} is {shown(value)} (set in {origin}), with {shown(item)} in it; expected {names} there"
            )
            raise UserError(message, hint=self._hint)

        return read(value)

    @property
    def _hint(self) -> str:
        return f"{'take' if isinstance(self.legal, OneOf) else 'give'} {self.expected}"


def read_value(name: str, value: Any, kind: type, default: Any, origin: str, hint: str) -> Any:
    """``value`` as a ``kind``, by yacs' rules and a few more that lose nothing.

    A whole number may stand for a float and a float without fraction for a whole number; a list for a tuple and a
    tuple for a list; a text that is a number for that number (YAML 1.1 takes ``1e-3`` for text), in lists, too.

    Raises:
        UserError: it is something else.
    """
    if value is None or kind is type(None):
        return value
    if kind in (list, tuple) and isinstance(value, (list, tuple)):
        numbers = _leaves(default)
        numeric = bool(numbers) and all(_is_number(v) for v in numbers)
        return kind(map(_number, value) if numeric else value)
    if kind in (int, float):
        value = _number(value)
    found = _converted(value, kind)
    if found is None:
        raise _wrong_type(name, value, origin, kind, hint)
    return found


def _converted(value: Any, kind: type) -> Any:
    """``value`` as a ``kind`` if that loses nothing, otherwise None."""
    if type(value) is kind:
        return value
    if kind is float and type(value) is int and is_number(value):  # not of 400 digits
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return None


def _wrong_type(name: str, value: Any, origin: str, kind: type, hint: str) -> UserError:
    found = type(value).__name__
    article = "an" if found[0] in "aeiou" else "a"
    said = f"{name} is {shown(value)} (set in {origin}), {article} {found}"
    return UserError(f"{said}; expected {kind.__name__}", hint=hint)


def _leaves(value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        return [value]
    return [leaf for item in value for leaf in _leaves(item)]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(item: Any) -> Any:
    """A text that is a number as that number, in lists of lists, too; all else as it is."""
    if isinstance(item, (list, tuple)):
        return type(item)(map(_number, item))
    if isinstance(item, str):
        try:
            number = parse_literal(item)
        except ValueError:
            return item
        return number if _is_number(number) else item
    return item
