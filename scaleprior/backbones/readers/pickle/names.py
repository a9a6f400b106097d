"""What stands for the few names that weights in pickles need: NumPy arrays, torch's records, and harmless settings.

:mod:`machine` follows the pickle; here an array's stand-in checks the claimed shape against the bytes present before
any array exists, and a torch tensor's against its storage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaleprior.backbones.readers.limits import LIMITS, RefusedFileError, check_shape
from scaleprior.backbones.readers.pickle.stand_ins import Inert, KnownName, OrderedMapping, StandIn, put_entries

__all__ = ["PLAIN_NAMES", "STORAGES", "TORCH_NAMES", "ArrayStandIn", "Storage", "TensorRecord", "as_text"]

_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_CODES = {f"{kind}{size}" for kind in "iuf" for size in (1, 2, 4, 8)} - {"f1"} | {"b1", "?"} | set("bBhHiIlLqQefd")
STORAGES = {
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


class _DType(StandIn):
    def __init__(self, code: Any = None, *_: Any) -> None:
        code = as_text(code)
        if code not in _CODES:
            raise RefusedFileError("code", f"an array of type {str(code)[:20]!r}, which is not of numbers")
        self.dtype = np.dtype(code)

    def build(self, state: Any) -> None:
        if as_text(state[1]) == ">":
            self.dtype = self.dtype.newbyteorder(">")


class ArrayStandIn(StandIn):
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
    return np.frombuffer(raw, dtype.dtype).reshape(shape, order="F" if as_text(order) == "F" else "C")


def _reconstruct(*_: Any) -> ArrayStandIn:
    return ArrayStandIn()


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> ArrayStandIn:
    array = ArrayStandIn()
    array.value = _view(raw, dtype, shape, order)
    return array


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    return _view(_encode(raw) if isinstance(raw, str) else raw, dtype, (), "C").item()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or as_text(encoding) not in ("latin1", "latin-1"):
        raise RefusedFileError("code", f"text in the encoding {str(encoding)[:20]!r}")
    return text.encode("latin1")


def _bytes(raw: Any = b"", encoding: Any = "latin1") -> bytes | memoryview:
    """How Python 3 writes empty bytes and bytearrays in old protocols."""
    return raw if isinstance(raw, (bytes, memoryview)) else _encode(raw, encoding)


def as_text(value: Any) -> Any:
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
    **{("torch", name): None for name in STORAGES},
}
PLAIN_NAMES, TORCH_NAMES = _table(_PLAIN), _table(_TORCH)
"""(module, name) -> what stands for it: in pickles of arrays, and in torch files."""
