"""What stands for the few names that weights in pickles need: NumPy arrays and torch's records.

:mod:`machine` follows the pickle; here an array's stand-in checks the claimed shape against the bytes present before
any array exists, and a torch tensor's against its storage. What is no array or tensor of plain numbers becomes an
:class:`Instance`, as objects of unknown classes do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaleprior.backbones.readers.limits import LIMITS, RefusedFileError, check_shape
from scaleprior.backbones.readers.pickle.stand_ins import (
    Instance,
    Named,
    OrderedMapping,
    StandIn,
    called,
    put_entries,
    put_members,
)
from scaleprior.wording import shown

__all__ = [
    "PLAIN_NAMES",
    "STORAGES",
    "TORCH_NAMES",
    "ArrayStandIn",
    "DTypeStandIn",
    "Storage",
    "TensorRecord",
    "as_text",
]

_SIDES = 8  # of a tensor
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_LONG = 4096  # bytes; longer ones are no texts of Python 2
_CODES = {f"{kind}{size}" for kind in "iuf" for size in (1, 2, 4, 8)} - {"f1"} | {"b1", "?"} | set("bBhHiIlLqQefd")
STORAGES = {
    "FloatStorage": ("float32", 4), "HalfStorage": ("float16", 2), "BFloat16Storage": ("bfloat16", 2),
    "DoubleStorage": ("float64", 8), "LongStorage": ("int64", 8), "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2), "CharStorage": ("int8", 1), "ByteStorage": ("uint8", 1), "BoolStorage": ("bool", 1),
    "UntypedStorage": ("", 1), "ComplexFloatStorage": ("", 8), "ComplexDoubleStorage": ("", 16),
    "QInt8Storage": ("", 1), "QUInt8Storage": ("", 1), "QInt32Storage": ("", 4), "QUInt4x2Storage": ("", 1),
    "QUInt2x4Storage": ("", 1),
}  # fmt: skip
"""Class -> (type of its numbers or "" if weights are never of it, bytes of each)."""


@dataclass(frozen=True)
class Storage:
    """Numbers of a torch file that lie outside its pickle; ``dtype`` "": of a type that is passed over."""

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


class DTypeStandIn(StandIn):
    """The type of an array's members."""

    dtype: np.dtype | None = None
    """None: not of numbers (texts, dates, records, objects, complex ones)."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        if isinstance(code := as_text(code), str) and code in _CODES:
            self.dtype = np.dtype(code)

    def build(self, state: Any) -> None:
        if self.dtype is not None and as_text(state[1]) == ">":
            self.dtype = self.dtype.newbyteorder(">")


class ArrayStandIn(StandIn):
    """An array of numbers, or what stands for one of other things."""

    value: np.ndarray | None = None
    other: Instance | None = None

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or isinstance(state[4], list):
            self.other = Instance("numpy.ndarray", state=state[4] if isinstance(state, tuple) else state)
        else:
            _, shape, dtype, fortran, raw = state
            self.fill(raw, dtype, shape, "F" if fortran else "C")

    def fill(self, raw: Any, dtype: Any, shape: Any, order: Any) -> None:
        """Lay it over its bytes."""
        if isinstance(dtype, DTypeStandIn) and dtype.dtype is not None:
            self.value = _view(raw, dtype.dtype, shape, order)
        else:
            self.other = Instance("numpy.ndarray")


def _view(raw: Any, dtype: np.dtype, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(raw, (bytes, memoryview)) or not isinstance(shape, tuple):
        raise RefusedFileError("damaged", "an array without shape or bytes")
    size = check_shape(shape, dtype.itemsize, len(raw), "an array", "pickle", LIMITS)
    if size != len(raw):
        raise RefusedFileError("damaged", f"an array of shape {shown(shape)} with {len(raw)} bytes")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if as_text(order) == "F" else "C")


def _reconstruct(*_: Any) -> ArrayStandIn:
    return ArrayStandIn()


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> ArrayStandIn:
    array = ArrayStandIn()
    array.fill(raw, dtype, shape, order)
    return array


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    if not isinstance(dtype, DTypeStandIn) or dtype.dtype is None:
        return Instance("numpy.generic", (raw,))
    return _view(_encode(raw) if isinstance(raw, str) else raw, dtype.dtype, (), "C").item()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or as_text(encoding) not in ("latin1", "latin-1"):
        raise RefusedFileError("code", f"text in the encoding {shown(encoding, 20)}")
    return text.encode("latin1")


def _bytes(raw: Any = b"", encoding: Any = "latin1") -> bytes | memoryview:
    """How Python 3 writes empty bytes and bytearrays in old protocols."""
    return raw if isinstance(raw, (bytes, memoryview)) else _encode(raw, encoding)


def as_text(value: Any) -> Any:
    """A text of Python 2 as one of Python 3; other values, and bytes that are longer than such texts, as they are."""
    return value.decode("latin1") if isinstance(value, bytes) and len(value) <= _LONG else value


def _ordered(pairs: Any = ()) -> OrderedMapping:
    """``OrderedDict()``, or with pairs as Python 2 wrote them; keys are checked as those of any dict."""
    made = OrderedMapping()
    if not isinstance(pairs, (list, tuple)) or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs):
        raise RefusedFileError("damaged", "an OrderedDict of other things than pairs")
    put_entries(made, [part for pair in pairs for part in pair], LIMITS)
    return made


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *more: Any) -> TensorRecord | Instance:
    if (
        isinstance(storage, Instance)
        or (isinstance(storage, Storage) and not storage.dtype)
        or (more and any(more[2:]))
    ):
        return Instance("torch.Tensor")  # quantised, complex, or to be negated
    if (
        not isinstance(storage, Storage)
        or not isinstance(shape, tuple)
        or not isinstance(stride, tuple)
        or len(shape) != len(stride)
        or len(shape) > _SIDES
        or not all(type(n) is int and n >= 0 for n in (offset, *stride))
    ):
        raise RefusedFileError("damaged", "a tensor without storage, shape or strides")
    # Strides of 0 let a few bytes pose as gigabytes: a tensor may not have more numbers than its storage.
    check_shape(shape, storage.itemsize, storage.elements * storage.itemsize, "a tensor", "torch file", LIMITS)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride))
    if 0 not in shape and last >= storage.elements:
        raise RefusedFileError("size", f"a tensor reaches number {last:,} of {storage.elements:,} stored ones")
    return TensorRecord(storage, offset, shape, stride)


def _first(tensor: Any, *_: Any) -> Any:
    """A tensor wrapped as a parameter or a buffer."""
    return tensor


def _rebuild_from_type(make: Any, _type: Any, arguments: Any, *_: Any) -> Any:
    """A tensor's subclass, or a tensor with attributes: the tensor."""
    if isinstance(make, Named) and isinstance(arguments, tuple):
        for known in (_rebuild_tensor, _first):  # none that copies: what lies in the arguments is not counted
            if make.make is known:
                return known(*arguments)
    return Instance(make.name if isinstance(make, Named) else "torch.Tensor")


def _torch_size(shape: Any = ()) -> Any:
    return tuple(shape) if isinstance(shape, (list, tuple)) else Instance("torch.Size")


def _set(members: Any = ()) -> Any:
    """How old protocols write sets."""
    if not isinstance(members, (list, tuple, set)):
        return Instance("builtins.set")
    made: set[Any] = set()
    put_members(made, members)
    return made


def _new(kind: Any, *arguments: Any) -> Any:
    """``copyreg.__newobj__``: the object of a class."""
    return called(kind, arguments)


def _reconstructed(kind: Any, _base: Any = None, state: Any = None) -> Any:
    """How protocols 0 and 1 write objects; a state is that of the built-in type which the class comes from."""
    made = called(kind, () if state is None or isinstance(state, (dict, list)) else (state,))
    if isinstance(made, Instance):
        made.entries = state if isinstance(state, dict) else None
        made.members = state if isinstance(state, list) else None
    return made


def _restored(value: Any, *_: Any) -> Any:
    """A list or dict with the type that TorchScript declares for it."""
    return value


def _table(entries: dict[tuple[str, str], Callable[..., Any]]) -> dict[tuple[str, str], Named]:
    return {key: Named(".".join(key), make) for key, make in entries.items()}


_PLAIN = {
    ("collections", "OrderedDict"): _ordered,
    ("numpy", "dtype"): DTypeStandIn,
    ("_codecs", "encode"): _encode,
    **{(module, "__newobj__"): _new for module in ("copyreg", "copy_reg")},
    **{(module, "_reconstructor"): _reconstructed for module in ("copyreg", "copy_reg")},
    **{(module, name): _bytes for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")},
    **{(module, name): _set for module in ("builtins", "__builtin__") for name in ("set", "frozenset")},
    **{(module, "_reconstruct"): _reconstruct for module in _NUMPY},
    **{(module, "scalar"): _scalar for module in _NUMPY},
    **{(module, "_frombuffer"): _frombuffer for module in _NUMERIC},
}
_TORCH = {
    **_PLAIN,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    **{("torch.nn.parameter", name): _first for name in ("Parameter", "Buffer")},
    **{("torch._tensor", name): _rebuild_from_type for name in ("_rebuild_from_type", "_rebuild_from_type_v2")},
    ("torch.tensor", "_rebuild_from_type"): _rebuild_from_type,
    ("torch", "Size"): _torch_size,
    ("torch.jit._pickle", "restore_type_tag"): _restored,
}
PLAIN_NAMES, TORCH_NAMES = _table(_PLAIN), _table(_TORCH)
"""(module, name) -> what stands for it: in pickles of arrays, and in torch files."""
