"""What stands for the few names that weights in pickles need: NumPy arrays, torch's records, and harmless settings.

:mod:`machine` follows the pickle; here an array's stand-in checks the claimed shape against the bytes present before
any array exists, and a torch tensor's against its storage.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from scaleprior.backbones.readers.limits import LIMITS, Limits, RefusedFileError, check_shape
from scaleprior.backbones.readers.machine import Machine
from scaleprior.backbones.readers.stand_ins import Inert, KnownName, OrderedMapping, StandIn, put_entries

__all__ = ["Storage", "TensorRecord", "Tree", "guarded", "load_pickle", "plain", "torch_machine"]

_BUFFER = 1 << 13  # bytes; small, since it is filled anew behind every long array
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_CODES = {f"{kind}{size}" for kind in "iuf" for size in (1, 2, 4, 8)} - {"f1"} | {"b1", "?"} | set("bBhHiIlLqQefd")
_TORCH_STORAGES = {
    "FloatStorage": ("float32", 4), "HalfStorage": ("float16", 2), "BFloat16Storage": ("bfloat16", 2),
    "DoubleStorage": ("float64", 8), "LongStorage": ("int64", 8), "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2), "CharStorage": ("int8", 1), "ByteStorage": ("uint8", 1), "BoolStorage": ("bool", 1),
}  # fmt: skip
_INERT = (
    ("argparse", "Namespace"),
    ("types", "SimpleNamespace"),
    ("collections", "defaultdict"),
    ("collections", "Counter"),
    *(("pathlib", f"{kind}Path") for kind in ("", "Pure", "Posix", "Windows", "PurePosix", "PureWindows")),
    *(("pathlib._local", f"{kind}Path") for kind in ("", "Pure", "Posix", "Windows", "PurePosix", "PureWindows")),
    *(("datetime", name) for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *((module, name) for module in ("builtins", "__builtin__") for name in ("set", "frozenset", "dict", "list", "int")),
    ("torch", "device"),
    *(("torch", name) for name in ("float16", "bfloat16", "float32", "float64", "int64", "int32", "uint8", "bool")),
    ("yacs.config", "CfgNode"),
    ("fvcore.common.config", "CfgNode"),
    ("detectron2.config.config", "CfgNode"),
)
"""Settings that training scripts save beside their weights. Nothing of them is built or kept."""


@dataclass(frozen=True)
class Storage:
    """Numbers of a torch file that lie outside its pickle."""

    key: str
    dtype: str
    itemsize: int
    elements: int


@dataclass(frozen=True)
class TensorRecord:
    """What a torch file claims of a tensor; it has been checked against the storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass
class Tree:
    """A file's content in plain types.

    Attributes:
        content: dicts, lists, numbers, texts, arrays.
        left_out: "where: class" of the objects that were passed over.
    """

    content: Any
    left_out: list[str] = field(default_factory=list)


class _DType(StandIn):
    def __init__(self, code: Any = None, *_: Any) -> None:
        code = _text(code)
        if code not in _CODES:
            raise RefusedFileError("code", f"an array of type {str(code)[:20]!r}, which is not of numbers")
        self.dtype = np.dtype(code)

    def build(self, state: Any) -> None:
        if _text(state[1]) == ">":
            self.dtype = self.dtype.newbyteorder(">")


class _Array(StandIn):
    value: np.ndarray | None = None

    def build(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(raw, (bytes, memoryview)):
            raise RefusedFileError("code", "an array of Python objects")
        self.value = _view(raw, dtype, shape, "F" if fortran else "C")


def _view(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _DType) or not isinstance(raw, (bytes, memoryview)) or not isinstance(shape, tuple):
        raise RefusedFileError("damaged", "an array without type, shape or bytes")
    size = check_shape(shape, dtype.dtype.itemsize, len(raw), "an array", "pickle", LIMITS)
    if size != len(raw):
        raise RefusedFileError("damaged", f"an array of shape {shape} with {len(raw)} bytes")
    return np.frombuffer(raw, dtype.dtype).reshape(shape, order="F" if _text(order) == "F" else "C")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.value = _view(raw, dtype, shape, order)
    return array


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    return _view(_encode(raw) if isinstance(raw, str) else raw, dtype, (), "C").item()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or _text(encoding) not in ("latin1", "latin-1"):
        raise RefusedFileError("code", f"text in the encoding {str(encoding)[:20]!r}")
    return text.encode("latin1")


def _bytes(raw: Any = b"", encoding: Any = "latin1") -> bytes | memoryview:
    """How Python 3 writes empty bytes and bytearrays in old protocols."""
    return raw if isinstance(raw, (bytes, memoryview)) else _encode(raw, encoding)


def _text(value: Any) -> Any:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _ordered(pairs: Any = ()) -> OrderedMapping:
    """``OrderedDict()``, or with pairs as Python 2 wrote them; keys are checked as those of any dict."""
    made = OrderedMapping()
    flat = [part for pair in pairs for part in pair] if isinstance(pairs, (list, tuple)) else [None]
    put_entries(made, flat, LIMITS)
    return made


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *more: Any) -> TensorRecord:
    if (
        not isinstance(storage, Storage)
        or not isinstance(shape, tuple)
        or not isinstance(stride, tuple)
        or len(shape) != len(stride)
        or not all(type(n) is int and n >= 0 for n in (offset, *stride))
    ):
        raise RefusedFileError("damaged", "a tensor without storage, shape or strides")
    if len(more) > 2 and more[2]:
        raise RefusedFileError("damaged", f"a tensor that is {str(more[2])[:60]}")
    # Strides of 0 let a few bytes pose as gigabytes: a tensor may not have more numbers than its storage.
    check_shape(shape, storage.itemsize, storage.elements * storage.itemsize, "a tensor", "torch file", LIMITS)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride))
    if 0 not in shape and last >= storage.elements:
        raise RefusedFileError("size", f"a tensor reaches number {last:,} of {storage.elements:,} stored ones")
    return TensorRecord(storage, offset, shape, stride)


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _torch_size(shape: Any = ()) -> tuple:
    return tuple(shape)


def _table(entries: dict[tuple[str, str], Callable[..., Any] | None]) -> dict[tuple[str, str], KnownName]:
    inert = {key: KnownName(".".join(key), _passing_over(".".join(key)), inert=True) for key in _INERT}
    return {**inert, **{key: KnownName(".".join(key), make) for key, make in entries.items()}}


def _passing_over(name: str) -> Callable[..., Inert]:
    return lambda *_: Inert(name)


_PLAIN = {
    ("collections", "OrderedDict"): _ordered,
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    **{(module, name): _bytes for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")},
    **{(module, "_reconstruct"): _reconstruct for module in _NUMPY},
    **{(module, "scalar"): _scalar for module in _NUMPY},
    **{(module, "_frombuffer"): _frombuffer for module in _NUMERIC},
}
_TORCH = {
    **_PLAIN,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): _torch_size,
    **{("torch", name): None for name in _TORCH_STORAGES},
}
_PLAIN_NAMES, _TORCH_NAMES = _table(_PLAIN), _table(_TORCH)


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
            machine = Machine(file, os.fstat(file.fileno()).st_size, _PLAIN_NAMES, limits)
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
            or _text(pid[0]) != "storage"
            or not isinstance(pid[1], KnownName)
        ):
            raise RefusedFileError("damaged", f"a storage described as {str(pid)[:60]}")
        kind, elements = _TORCH_STORAGES.get(pid[1].name.removeprefix("torch.")), pid[4]
        if kind is None or type(elements) is not int or elements < 0:
            raise RefusedFileError("damaged", f"a storage of {str(elements)[:20]} numbers")
        if len(pid) > 5 and pid[5] is not None:
            raise RefusedFileError("damaged", "a storage within another one, as torch wrote them before 0.4")
        found = Storage(str(_text(pid[2])), *kind, elements)
        if elements * found.itemsize > stored(found):
            raise RefusedFileError("size", f"a storage claims {elements:,} numbers, more than the file holds")
        return found

    return Machine(file, length, _TORCH_NAMES, limits, storage=storage)


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
            made = {_text(k): convert(v, depth + 1, _at(where, k)) for k, v in value.items()}
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
        if isinstance(value, _Array):
            if value.value is None:
                raise RefusedFileError("damaged", "an array without content")
            native = value.value.dtype.newbyteorder("=")
            return value.value if value.value.dtype.isnative else value.value.astype(native)
        return _text(value) if isinstance(value, bytes) and len(value) <= 4096 else value

    return Tree(convert(tree, 0, ""), left_out)


def _at(where: str, key: Any) -> str:
    key = str(key)[:60]
    return f"{where}.{key}" if where else key
