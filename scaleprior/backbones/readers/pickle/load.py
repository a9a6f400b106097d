"""Pickles read into plain types, with every way that a damaged one can fail turned into a refusal."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

from scaleprior.backbones.readers.limits import LIMITS, Limits, RefusedFileError
from scaleprior.backbones.readers.pickle.machine import Machine
from scaleprior.backbones.readers.pickle.names import (
    PLAIN_NAMES,
    STORAGES,
    TORCH_NAMES,
    Storage,
    as_text,
)
from scaleprior.backbones.readers.pickle.plain import Tree, plain
from scaleprior.backbones.readers.pickle.stand_ins import Instance, Named
from scaleprior.errors import UserError
from scaleprior.parsing import open_regular
from scaleprior.wording import one_line, shown

__all__ = ["guarded", "load_pickle", "torch_machine"]

_BUFFER = 1 << 13  # bytes; small, since it is filled anew behind every long array
_KEY = 256  # characters of a storage's name; torch's are numbers


def guarded(where: str, read: Callable[[], Any]) -> Any:
    """What ``read`` gives; whatever a damaged file makes it raise becomes a refusal that names the file.

    Raises:
        RefusedFileError
    """
    try:
        return read()
    except RefusedFileError as e:
        raise RefusedFileError(e.reason, f"{where}: {str(e).split(' [refused')[0]}", hint=e.hint) from e
    except UserError:
        raise
    except (
        EOFError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, BufferError, MemoryError,
        RuntimeError, struct.error,
    ) as e:  # fmt: skip
        said = f"{type(e).__name__}: {one_line(e)}"
        raise RefusedFileError("damaged", f"{where} is not a pickle of weights: {said}") from e


def load_pickle(path: str, *, limits: Limits = LIMITS) -> Tree:
    """A pickle's content: dicts, lists, numbers, texts and NumPy arrays, long ones mapped and perhaps not aligned.

    Raises:
        RefusedFileError: it would run code, holds a key twice, asks for more than the limits, or is damaged.
    """

    def read() -> Tree:
        with open_regular(path, what="weights", buffering=_BUFFER) as file:
            size = os.fstat(file.fileno()).st_size
            machine = Machine(file, size, PLAIN_NAMES, limits)
            return plain(machine.load(), limits, size)

    return guarded(path, read)


def torch_machine(file: BinaryIO, length: int, stored: Callable[[Storage], int], limits: Limits) -> Machine:
    """Reads the pickles of a torch file, with a :class:`TensorRecord` in place of every tensor; allocates no tensor.

    Args:
        stored: bytes that the file can hold for a storage.
    """

    def storage(pid: Any) -> Any:
        kind = as_text(pid[0]) if isinstance(pid, tuple) and pid else None
        if kind == "module" and len(pid) > 1:  # the older format's classes of modules, with their source beside
            return pid[1]
        if kind != "storage" or len(pid) < 5 or not isinstance(pid[1], Named):
            raise RefusedFileError("damaged", f"a storage described as {shown(kind)}")
        known, elements = STORAGES.get(pid[1].name.rpartition(".")[2]), pid[4]
        if known is None:
            return Instance(pid[1].name)
        if type(elements) is not int or elements < 0:
            raise RefusedFileError("damaged", f"a storage of {shown(elements)} numbers")
        if len(pid) > 5 and pid[5] is not None:
            raise RefusedFileError("damaged", "a storage within another one, as torch wrote them before 0.4")
        dtype, itemsize = known
        if not isinstance(key := as_text(pid[2]), str) or len(key) > _KEY:
            raise RefusedFileError("damaged", f"a storage called {shown(key)}")
        found = Storage(key, dtype, itemsize, elements)
        if elements * found.itemsize > stored(found):
            raise RefusedFileError("size", f"a storage claims {elements:,} numbers, more than the file holds")
        return found

    return Machine(file, length, TORCH_NAMES, limits, storage=storage)
