"""Pickles read into plain types, with every way that a damaged one can fail turned into a refusal."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from scaleprior.backbones.readers.limits import LIMITS, Limits, RefusedFileError
from scaleprior.backbones.readers.pickle.machine import Machine
from scaleprior.backbones.readers.pickle.names import (
    PLAIN_NAMES,
    STORAGES,
    TORCH_NAMES,
    ArrayStandIn,
    Storage,
    TensorRecord,
    as_text,
)
from scaleprior.backbones.readers.pickle.stand_ins import Inert, KnownName

__all__ = ["Tree", "guarded", "load_pickle", "plain", "torch_machine"]

_BUFFER = 1 << 13  # bytes; small, since it is filled anew behind every long array


@dataclass
class Tree:
    """A file's content in plain types.

    Attributes:
        content: dicts, lists, numbers, texts, arrays.
        left_out: "where: class" of the objects that were passed over.
    """

    content: Any
    left_out: list[str] = field(default_factory=list)


def guarded(where: str, read: Callable[[], Any]) -> Any:
    """What ``read`` gives; whatever a damaged file makes it raise becomes a refusal that names the file.

    Raises:
        RefusedFileError
    """
    try:
        return read()
    except RefusedFileError as e:
        raise RefusedFileError(e.reason, f"{where}: {str(e).split(' [refused')[0]}", hint=e.hint) from e
    except (
        EOFError, ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, MemoryError,
        RecursionError, struct.error,
    ) as e:  # fmt: skip
        raise RefusedFileError("damaged", f"{where} is not a pickle of weights: {type(e).__name__}: {e}") from e


def load_pickle(path: str, *, limits: Limits = LIMITS) -> Tree:
    """A pickle's content: dicts, lists, numbers, texts and NumPy arrays, long ones mapped and perhaps not aligned.

    Raises:
        RefusedFileError: it would run code, holds a key twice, asks for more than the limits, or is damaged.
    """

    def read() -> Tree:
        with open(path, "rb", buffering=_BUFFER) as file:
            machine = Machine(file, os.fstat(file.fileno()).st_size, PLAIN_NAMES, limits)
            return plain(machine.load(), limits)

    return guarded(path, read)


def torch_machine(file: BinaryIO, length: int, stored: Callable[[Storage], int], limits: Limits) -> Machine:
    """Reads the pickles of a torch file, with a :class:`TensorRecord` in place of every tensor; allocates no tensor.

    Args:
        stored: bytes that the file can hold for a storage.
    """

    def storage(pid: Any) -> Storage:
        if (
            not isinstance(pid, tuple)
            or len(pid) < 5
            or as_text(pid[0]) != "storage"
            or not isinstance(pid[1], KnownName)
        ):
            raise RefusedFileError("damaged", f"a storage described as {str(pid)[:60]}")
        kind, elements = STORAGES.get(pid[1].name.removeprefix("torch.")), pid[4]
        if kind is None or type(elements) is not int or elements < 0:
            raise RefusedFileError("damaged", f"a storage of {str(elements)[:20]} numbers")
        if len(pid) > 5 and pid[5] is not None:
            raise RefusedFileError("damaged", "a storage within another one, as torch wrote them before 0.4")
        found = Storage(str(as_text(pid[2])), *kind, elements)
        if elements * found.itemsize > stored(found):
            raise RefusedFileError("size", f"a storage claims {elements:,} numbers, more than the file holds")
        return found

    return Machine(file, length, TORCH_NAMES, limits, storage=storage)


def plain(tree: Any, limits: Limits, tensor: Callable[[TensorRecord], Any] | None = None) -> Tree:
    """The same content in plain types; bounded in depth and in leaves, whatever the pickle shares or nests.

    Args:
        tensor: what to put in place of a record.
    """
    count, left_out = 0, []

    def convert(value: Any, depth: int, where: str) -> Any:
        nonlocal count
        count += 1
        limits.check_keys(count // 8, "pickle")  # optimiser states have several leaves for each tensor
        if depth > limits.depth:
            raise RefusedFileError("size", f"containers nested deeper than {limits.depth}")
        if isinstance(value, dict):
            made = {as_text(k): convert(v, depth + 1, _at(where, k)) for k, v in value.items()}
            if len(made) != len(value):
                raise RefusedFileError("duplicate", "a dict with a key as text and as bytes")
            return made
        if isinstance(value, (list, tuple)):
            return [convert(v, depth + 1, where) for v in value]
        if isinstance(value, TensorRecord) and tensor is not None:
            return tensor(value)
        if isinstance(value, Inert):
            left_out.append(f"{where or 'all of it'}: {value.name}")
            return None
        if isinstance(value, ArrayStandIn):
            if value.value is None:
                raise RefusedFileError("damaged", "an array without content")
            native = value.value.dtype.newbyteorder("=")
            return value.value if value.value.dtype.isnative else value.value.astype(native)
        return as_text(value) if isinstance(value, bytes) and len(value) <= 4096 else value

    return Tree(convert(tree, 0, ""), left_out)


def _at(where: str, key: Any) -> str:
    key = str(key)[:60]
    return f"{where}.{key}" if where else key
