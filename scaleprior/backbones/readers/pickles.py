"""Pickles read without letting them do anything: numbers, texts, plain containers, NumPy arrays, torch records.

Two passes. The first walks the instructions (``pickletools``), building nothing, and refuses those that no weights
file needs, memory tricks, and names outside a short list. The second unpickles with stand-ins in place of every
class: an array's stand-in checks the claimed shape against the bytes present before any array exists.
Pickles of Python 2 (MSRA's and Caffe2's files) are read as bytes and decoded as Latin-1 here.
"""

from __future__ import annotations

import io
import mmap
import pickle
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaleprior.backbones.readers.limits import LIMITS, Limits, RefusedFileError, check_shape

__all__ = ["TensorRecord", "load_pickle", "load_torch_pickles"]

_FORBIDDEN = {
    "PERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "NEXT_BUFFER", "READONLY_BUFFER",
}  # fmt: skip
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_CODES = {f"{kind}{size}" for kind in "iuf" for size in (1, 2, 4, 8)} - {"f1"} | {"b1", "?"} | set("bBhHiIlLqQefd")
_TORCH_STORAGES = {
    "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "DoubleStorage": 8, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1,
}  # fmt: skip
_HINT_CODE = "do not open it with pickle or torch.load either; ask for a .safetensors file"


@dataclass(frozen=True)
class TensorRecord:
    """What a torch file claims of a tensor: shape, and the stored bytes it rests on."""

    shape: tuple[int, ...]
    stored: int


class _Mapping(dict):
    """Stands for OrderedDict; its ``_metadata`` and the like are passed over."""

    def __setstate__(self, state: Any) -> None:
        """Attributes of an OrderedDict hold nothing that weights need."""


class _DType:
    def __init__(self, code: Any = None, *_: Any) -> None:
        code = _text(code)
        if code not in _CODES:
            raise RefusedFileError("code", f"an array of type {str(code)[:20]!r}, which is not of numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        if _text(state[1]) == ">":
            self.dtype = self.dtype.newbyteorder(">")


class _Array:
    value: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, raw = state
        if not isinstance(raw, (bytes, bytearray)):
            raise RefusedFileError("code", "an array of Python objects")
        self.value = _view(raw, dtype, shape, "F" if fortran else "C")


def _view(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _DType) or not isinstance(raw, (bytes, bytearray)) or not isinstance(shape, tuple):
        raise RefusedFileError("damaged", "an array without type, shape or bytes")
    size = check_shape(shape, dtype.dtype.itemsize, len(raw), "an array", "pickle", LIMITS)
    if size != len(raw):
        raise RefusedFileError("damaged", f"an array of shape {shape} with {len(raw)} bytes")
    array = np.frombuffer(raw, dtype.dtype).reshape(shape, order="F" if _text(order) == "F" else "C")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


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


def _text(value: Any) -> Any:
    return value.decode("latin1") if isinstance(value, bytes) else value


_PLAIN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Mapping,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    **{(module, "_reconstruct"): _reconstruct for module in _NUMPY},
    **{(module, "scalar"): _scalar for module in _NUMPY},
    **{(module, "_frombuffer"): _frombuffer for module in _NUMERIC},
}


@dataclass(frozen=True)
class _Storage:
    itemsize: int
    elements: int


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> TensorRecord:
    if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise RefusedFileError("damaged", "a tensor without storage, shape or strides")
    stored = storage.elements * storage.itemsize
    # Strides of 0 let a few bytes pose as gigabytes: a tensor may not have more numbers than its storage.
    check_shape(shape, storage.itemsize, stored, "a tensor", "torch file", LIMITS)
    return TensorRecord(shape, stored)


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _torch_size(shape: Any = ()) -> tuple:
    return tuple(shape)


_TORCH: dict[tuple[str, str], Any] = {
    **{key: value for key, value in _PLAIN.items() if key[0] in ("collections", "_codecs")},
    **{key: value for key, value in _PLAIN.items() if key[0].startswith("numpy")},
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): _torch_size,
    **{("torch", name): size for name, size in _TORCH_STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Knows only the names it is given; everything else is refused by name, before it is imported."""

    def __init__(self, file: Any, known: Mapping[tuple[str, str], Any], stored: Callable[[Any, int, int], int] | None):
        super().__init__(file, encoding="bytes")
        self._known, self._stored = known, stored

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise RefusedFileError("code", f"it names {module}.{name}, which is no part of weights", hint=_HINT_CODE)
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        if self._stored is None:
            raise RefusedFileError("code", "it refers to objects outside the file")
        if not isinstance(pid, tuple) or len(pid) < 5 or _text(pid[0]) != "storage" or not isinstance(pid[1], int):
            raise RefusedFileError("damaged", f"a storage described as {str(pid)[:60]}")
        itemsize, elements = pid[1], pid[4]
        if not isinstance(elements, int) or elements < 0:
            raise RefusedFileError("damaged", f"a storage of {str(elements)[:20]} numbers")
        if elements * itemsize > self._stored(_text(pid[2]), itemsize, elements):
            raise RefusedFileError("size", f"a storage claims {elements:,} numbers, more than the file holds")
        return _Storage(itemsize, elements)


def _walk(data: Any, known: Mapping[tuple[str, str], Any], limits: Limits, *, torch_file: bool) -> None:
    """First pass, over one pickle at the current position of ``data``; builds nothing and allocates one argument."""
    for steps, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if steps > limits.pickle_steps:
            raise RefusedFileError("size", f"a pickle of more than {limits.pickle_steps:,} instructions")
        if opcode.name in _FORBIDDEN or (opcode.name == "BINPERSID" and not torch_file):
            raise RefusedFileError("code", f"the pickle instruction {opcode.name}, which no weights need")
        if opcode.name == "GLOBAL" and tuple(argument.split(" ", 1)) not in known:
            name = argument.replace(" ", ".")
            raise RefusedFileError("code", f"it names {name}, which is no part of weights", hint=_HINT_CODE)
        # The unpickler's table of remembered objects grows to the largest number used: 4 bytes could ask for 32 GB.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > limits.pickle_steps:
            raise RefusedFileError("size", f"a pickle that remembers object number {argument:,}")


class _Blank:
    """Stands for a long run of bytes, which the first pass need not see."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def decode(self, *_: Any) -> str:
        return ""


class _Skimmed:
    """The file as the first pass reads it: long arguments are passed over, not copied."""

    def __init__(self, data: Any, length: int) -> None:
        self._data, self._length = data, length
        self.readline, self.tell = data.readline, data.tell

    def read(self, count: int) -> Any:
        if count < 1 << 16 or self._data.tell() + count > self._length:
            return self._data.read(count)
        self._data.seek(count, 1)
        return _Blank(count)


def _load_one(data: Any, known: Mapping, stored: Callable | None, limits: Limits) -> Any:
    start = data.tell()
    _inspect(data, known, stored, limits)
    data.seek(start)
    return _Unpickler(data, known, stored).load()


def _inspect(data: Any, known: Mapping, stored: Callable | None, limits: Limits) -> None:
    start = data.tell()
    try:
        length = len(data) if isinstance(data, mmap.mmap) else 0  # 0: small enough to read all of it
        _walk(_Skimmed(data, length), known, limits, torch_file=stored is not None)
    except TypeError:  # a long text, which must be decoded whole (arrays in protocols 0 to 2, and bytearrays)
        data.seek(start)
        _walk(data, known, limits, torch_file=stored is not None)


def _guarded(where: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except RefusedFileError as e:
        raise RefusedFileError(e.reason, f"{where}: {str(e).split(' [refused')[0]}", hint=e.hint) from e
    except (
        pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError,
        MemoryError, RecursionError, UnicodeError,
    ) as e:  # fmt: skip
        raise RefusedFileError("damaged", f"{where} is not a pickle of weights: {type(e).__name__}: {e}") from e


def load_pickle(path: str, *, limits: Limits = LIMITS) -> Any:
    """A pickle's content: dicts, lists, numbers, texts and NumPy arrays (read-only, resting on the file's bytes).

    Raises:
        RefusedFileError: it would run code, asks for more than the limits, or is damaged.
    """

    def read() -> Any:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _inspect(data, _PLAIN, None, limits)
        # Read, not mapped: the arrays are copies of the file's bytes, whose mapped pages would count twice.
        with open(path, "rb") as file:
            return _plain(_Unpickler(file, _PLAIN, None).load(), limits)

    return _guarded(path, read)


def load_torch_pickles(
    data: mmap.mmap | io.BytesIO,
    stored: Callable[[Any, int, int], int],
    where: str,
    *,
    preamble: int,
    limits: Limits = LIMITS,
) -> Any:
    """Structure of a torch file with a :class:`TensorRecord` in place of every tensor; allocates no tensor.

    Args:
        data: at the start of the pickle.
        stored: (storage key, bytes per number, numbers claimed) -> bytes that the file can hold for it.
        preamble: pickles before the one that matters (3 in files older than torch 1.6, else 0).

    Raises:
        RefusedFileError: as :func:`load_pickle`.
    """

    def read() -> Any:
        for _ in range(preamble):
            _load_one(data, {}, None, limits)
        return _plain(_load_one(data, _TORCH, stored, limits), limits)

    return _guarded(where, read)


def _plain(tree: Any, limits: Limits) -> Any:
    """The same content in plain types; bounded in depth and in leaves, whatever the pickle shares or nests."""
    count = 0

    def convert(value: Any, depth: int) -> Any:
        nonlocal count
        count += 1
        limits.check_keys(count // 8, "pickle")  # optimiser states have several leaves for each tensor
        if depth > limits.depth:
            raise RefusedFileError("size", f"containers nested deeper than {limits.depth}")
        if isinstance(value, dict):
            return {_text(k) if isinstance(k, bytes) else k: convert(v, depth + 1) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [convert(v, depth + 1) for v in value]
        if isinstance(value, _Array):
            if value.value is None:
                raise RefusedFileError("damaged", "an array without content")
            return value.value
        if isinstance(value, bytes) and len(value) <= 4096:
            return _text(value)
        return value

    return convert(tree, 0)
