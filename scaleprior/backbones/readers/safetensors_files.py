"""Foreign ``.safetensors``: one file, or Hugging Face's shards under an index. The header is checked before reading."""

from __future__ import annotations

import itertools
import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.backbones.readers.limits import LIMITS, Limits, RefusedFileError, check_name, check_shape

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["load_safetensors", "load_shards", "read_header"]

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
        header = json.loads(raw, object_pairs_hook=lambda pairs: _unique(pairs, path))
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


def _unique(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise RefusedFileError("duplicate", f"{path} holds {twice!r} twice")
    return dict(pairs)


def _span(name: str, entry: Any, held: int, path: Path, limits: Limits) -> tuple[int, int]:
    if not isinstance(entry, dict) or entry.get("dtype") not in _ITEMSIZE:
        kind = entry.get("dtype") if isinstance(entry, dict) else entry
        raise RefusedFileError("damaged", f"{path}: {name} is of the unknown type {str(kind)[:40]!r}")
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


def load_shards(index: Path, *, limits: Limits = LIMITS) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of the files that a ``model.safetensors.index.json`` names, all in its own folder.

    Raises:
        RefusedFileError: a shard outside the folder, one that is missing, a tensor in none or in two of them.
    """
    if index.stat().st_size > limits.header_bytes:
        raise RefusedFileError("size", f"{index} has {index.stat().st_size:,} bytes")
    try:
        content = json.loads(index.read_bytes(), object_pairs_hook=lambda pairs: _unique(pairs, index))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as e:
        raise RefusedFileError("damaged", f"{index} is not JSON") from e
    where = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(where, dict) or not where:
        raise RefusedFileError("damaged", f"{index} has no weight_map")
    limits.check_keys(len(where), str(index))
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(map(str, where.values()))):
        if Path(shard).name != shard or check_name(shard, str(index), limits) != shard:
            raise RefusedFileError("path", f"{index} names the shard {shard!r}, which is not a file beside it")
        path = index.parent / shard
        if not path.is_file():
            raise RefusedFileError("damaged", f"{index} names the shard {shard}, which is not there")
        limits.check_file(path.stat().st_size, str(path))
        for name, tensor in load_safetensors(path, limits=limits)[0].items():
            if name in tensors:
                raise RefusedFileError("duplicate", f"{path} holds {name!r}, which another shard holds, too")
            tensors[name] = tensor
    missing = sorted(set(where) - set(tensors))
    if missing:
        raise RefusedFileError("damaged", f"the shards of {index} lack {len(missing)} tensors, first: {missing[0]}")
    return tensors, {}
