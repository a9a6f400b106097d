"""What a pickle's instructions made, as a tree of plain types; of the reader's own only placeholders are in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scaleprior.backbones.readers.limits import Budget, Limits, RefusedFileError
from scaleprior.backbones.readers.pickle.names import ArrayStandIn, DTypeStandIn, Storage, TensorRecord, as_text
from scaleprior.backbones.readers.pickle.placeholders import Placeholder, attributes, module_parts, module_state
from scaleprior.backbones.readers.pickle.stand_ins import Instance, Named, OddKey
from scaleprior.wording import shown

__all__ = ["Tree", "plain"]

_DEPTH = 48  # of what is kept within a placeholder: an object and its attributes are one level
_LEAVES = 8  # for each tensor that is allowed: optimiser states have several
_SMALL = 64  # attributes of an object that are copied however many were
_TOLD = 10_000  # placeholders whose places are told
_WORD = 60  # characters of a key in such a place


@dataclass
class Tree:
    """A file's content in plain types.

    Attributes:
        content: dicts, lists, numbers, texts, arrays, tensors; a :class:`Placeholder` for everything else.
        left_out: "where: class" of the placeholders that are no modules with tensors; the first 10,000.
    """

    content: Any
    left_out: list[str] = field(default_factory=list)


def plain(tree: Any, limits: Limits, size: int, tensor: Callable[[TensorRecord], Any] | None = None) -> Tree:
    """The same content in plain types; bounded in depth, in leaves and in bytes, whatever the pickle shares or nests.

    Args:
        size: of the file in bytes.
        tensor: what to put in place of a record.

    Raises:
        RefusedFileError: more than the limits outside placeholders (within them the rest is cut off); a dict with a
            key as text and as bytes; an array without content.
    """
    conversion = _Conversion(limits, size, tensor)
    return Tree(conversion.outside(tree, 0, ""), conversion.left_out)


class _Conversion:
    """One tree's way to plain types."""

    def __init__(self, limits: Limits, size: int, tensor: Callable[[TensorRecord], Any] | None) -> None:
        self.limits, self.tensor = limits, tensor or (lambda record: record)
        self.left_out: list[str] = []
        self.count = self.count_within = 0
        self.open: set[int] = set()  # ids of the objects that are being converted
        # Of what is made anew, one for all references: there may be a reference in two bytes.
        self.texts: dict[bytes, str] = {}
        self.made: dict[int, Any] = {}  # by the id of a record or of an array's stand-in, which the tree keeps alive
        self.turned = Budget(size, "holds arrays of another byte order over the same bytes, more than {} bytes in all")
        self.visits = Budget(_LEAVES * limits.keys, "holds more than {} parts of pickled models")

    def outside(self, value: Any, depth: int, where: str) -> Any:
        """What is not within a placeholder: more than the limits is refused."""
        self.count += 1
        self.limits.check_keys(self.count // _LEAVES, "pickle")
        if depth > self.limits.depth:
            raise RefusedFileError("size", f"containers nested deeper than {self.limits.depth}")
        if isinstance(value, TensorRecord):  # first, as it is the most frequent
            return self._leaf(value)
        if isinstance(value, dict):
            names = self._names(value)
            if len(set(names)) != len(names):
                raise RefusedFileError("duplicate", "a dict with a key as text and as bytes")
            return {k: self.outside(v, depth + 1, _at(where, k)) for k, v in zip(names, value.values())}
        if isinstance(value, (list, tuple)):
            return [self.outside(v, depth + 1, where) for v in value]
        if isinstance(value, set):
            return _set(value, [self.outside(v, depth + 1, where) for v in map(_of_key, value)])
        value = _object_of(value)
        made = self._placeholder(value, 0) if isinstance(value, Instance) else self._leaf(value)
        if isinstance(made, Placeholder) and not made.modules and len(self.left_out) < _TOLD:
            self.left_out.append(f"{where or 'all of it'}: {made.name}")
        return made

    def within(self, value: Any, depth: int) -> Any:
        """What is within a placeholder: more than the limits is cut off, and what holds itself ends there."""
        value = _object_of(value)
        if not isinstance(value, (dict, list, tuple, set, Instance)):
            return self._leaf(value)
        self.count_within += 1 if isinstance(value, Instance) else 1 + len(value)
        if depth > _DEPTH or self.full or id(value) in self.open:
            return Placeholder(_kind(value))
        if isinstance(value, Instance):
            return self._placeholder(value, depth)
        self.open.add(id(value))
        try:
            if isinstance(value, dict):
                return {k: self.within(v, depth + 1) for k, v in zip(self._names(value), value.values())}
            if isinstance(value, set):
                return _set(value, [self.within(v, depth + 1) for v in map(_of_key, value)])
            return [self.within(v, depth + 1) for v in value]
        finally:
            self.open.discard(id(value))

    @property
    def full(self) -> bool:
        """Whether no more is kept within placeholders."""
        return self.count_within // _LEAVES > self.limits.keys

    def _placeholder(self, instance: Instance, depth: int) -> Placeholder:
        extent = _extent(instance)
        self.count_within += extent
        if self.full and (extent > _SMALL or module_state(instance) is None):
            return Placeholder(instance.name)
        self.open.add(id(instance))
        try:
            if module_state(instance) is not None:
                parts = module_parts(instance, self.limits, self.visits)
                content = {name: self._leaf(record) for name, record in parts.tensors.items()}
                return Placeholder(instance.name, content, parts.modules if content else {})
            content = _content(instance)
            made = self.within(content, depth + 1)
            cut_off = isinstance(made, Placeholder) and not isinstance(content, (Instance, Named))
            return Placeholder(instance.name, None if cut_off else made)
        finally:
            self.open.discard(id(instance))

    def _leaf(self, value: Any) -> Any:
        if isinstance(value, (TensorRecord, ArrayStandIn)):
            if id(value) not in self.made:
                self.made[id(value)] = self.tensor(value) if isinstance(value, TensorRecord) else self._array(value)
            return self.made[id(value)]
        if isinstance(value, Named):
            return Placeholder(value.name)
        if isinstance(value, Storage):
            return Placeholder("torch.storage")
        if isinstance(value, DTypeStandIn):
            return Placeholder("numpy.dtype", value.dtype and value.dtype.name)
        return self._text(value) if isinstance(value, bytes) else value

    def _text(self, value: bytes) -> Any:
        if value not in self.texts:
            self.texts[value] = as_text(value)
        return self.texts[value]

    def _array(self, array: ArrayStandIn) -> np.ndarray:
        if array.value is None:
            raise RefusedFileError("damaged", "an array without content")
        if array.value.dtype.isnative:
            return array.value
        self.turned.spend(array.value.nbytes)
        return array.value.astype(array.value.dtype.newbyteorder("="))

    def _names(self, value: dict[Any, Any]) -> list[Any]:
        """A dict's keys, those of other kinds than texts and numbers by their kind and a number."""
        return [
            f"<{_kind(k.value)} {at}>" if isinstance(k, OddKey) else self._text(k) if isinstance(k, bytes) else k
            for at, k in enumerate(value)
        ]


def _extent(instance: Instance) -> int:
    """How much of an object is copied at each reference to it before its values are counted."""
    state = instance.state
    copied = state if isinstance(state, tuple) and len(state) == 2 else ()  # as attributes() does
    return len(instance.arguments) + sum(len(part) for part in copied if isinstance(part, dict))


def _object_of(value: Any) -> Any:
    """The object that stands for an array which is not of numbers."""
    return value.other if isinstance(value, ArrayStandIn) and value.other is not None else value


def _content(instance: Instance) -> Any:
    """The most telling of what a pickle gave an object."""
    state = attributes(instance.state)
    if instance.entries is not None:
        return {**state, **instance.entries} if isinstance(state, dict) else instance.entries
    if instance.members is not None:
        return instance.members
    return state if state is not None else (instance.arguments or None)


def _kind(value: Any) -> str:
    if isinstance(value, TensorRecord):
        return "torch.Tensor"
    return value.name if isinstance(value, (Instance, Named)) else type(value).__name__


def _of_key(key: Any) -> Any:
    return key.value if isinstance(key, OddKey) else key


def _set(value: set[Any], made: list[Any]) -> Any:
    """A set; a list if members of it have become something that sets do not take."""
    return made if any(isinstance(v, (OddKey, tuple)) for v in value) else set(made)


def _at(where: str, key: Any) -> str:
    key = key[:_WORD] if isinstance(key, str) else shown(key, _WORD)
    return f"{where}.{key}" if where else key
