"""Foreign ``.safetensors``. The header is checked before reading."""

from __future__ import annotations

import itertools
import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.backbones.readers.limits import FLOATS, LIMITS, Limits, RefusedFileError, check_name, check_shape

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["load_safetensors", "read_header", "unique"]

_ITEMSIZE = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I8": 1,
    "U8": 1, "BOOL": 1,
}  # fmt: skip


def read_header(path: Path, *, limits: Limits = LIMITS) -> dict[str, Any]:
    """The JSON header, with every claim checked against the file: names, types, shapes, and bytes without overlap.

    Raises:
        RefusedFileError: a claim does not hold.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if length > limits.header_bytes:
            raise RefusedFileError("size", f"{path} claims a header of {length:,} bytes")
        if not 2 <= length <= size - 8:
            raise RefusedFileError("damaged", f"{path} is not a whole safetensors file")
        raw = file.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=lambda pairs: unique(pairs, path))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as e:
        raise RefusedFileError("damaged", f"{path}: its header is not JSON") from e
    if not isinstance(header, dict):
        raise RefusedFileError("damaged", f"{path}: its header is no object")
    limits.check_keys(len(header), str(path))
    spans = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        check_name(name, str(path), limits)
        spans.append(_span(name, entry, size - 8 - length, path, limits))
    spans.sort()
    if any(end > start for (_, end), (start, _) in itertools.pairwise(spans)):
        raise RefusedFileError("size", f"{path}: two tensors share bytes")
    return header


def unique(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    """A JSON object's entries as a dict. Raises RefusedFileError: two of one name."""
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise RefusedFileError("duplicate", f"{path} holds {twice!r} twice")
    return dict(pairs)


def _span(name: str, entry: Any, held: int, path: Path, limits: Limits) -> tuple[int, int]:
    if not isinstance(entry, dict) or entry.get("dtype") not in _ITEMSIZE:
        kind = entry.get("dtype") if isinstance(entry, dict) else entry
        raise RefusedFileError("damaged", f"{path}: {name} is of the unknown type {str(kind)[:40]!r}", hint=FLOATS)
    offsets, shape = entry.get("data_offsets"), entry.get("shape")
    if (
        not isinstance(offsets, list)
        or not isinstance(shape, list)
        or len(offsets) != 2
        or not all(type(n) is int for n in offsets)
        or not 0 <= offsets[0] <= offsets[1] <= held
    ):
        raise RefusedFileError("damaged", f"{path}: {name} lies outside the file")
    size = check_shape(shape, _ITEMSIZE[entry["dtype"]], offsets[1] - offsets[0], name, str(path), limits)
    if size != offsets[1] - offsets[0]:
        raise RefusedFileError("damaged", f"{path}: {name} has {offsets[1] - offsets[0]} bytes for shape {shape}")
    return offsets[0], offsets[1]


def load_safetensors(path: Path, *, limits: Limits = LIMITS) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors by name, mapped into memory; the header's metadata).

    Raises:
        RefusedFileError: as :func:`read_header`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    metadata = read_header(path, limits=limits).get("__metadata__", {})
    try:
        return load_file(path), {k: v for k, v in dict(metadata).items() if isinstance(v, str)}
    except (SafetensorError, OSError, ValueError, TypeError) as e:
        raise RefusedFileError("damaged", f"{path} cannot be read: {e}") from e
