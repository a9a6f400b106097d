"""Foreign ``.safetensors``. The header is checked before reading."""

from __future__ import annotations

import itertools
import os
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.backbones.readers.limits import FLOATS, LIMITS, Limits, RefusedFileError, check_name, check_shape
from scaleprior.errors import UserError
from scaleprior.parsing import open_regular, parse_json
from scaleprior.wording import one_line, shown

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["load_safetensors", "metadata_of", "parse_untrusted", "read_header"]

_ITEMSIZE = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I8": 1,
    "U8": 1, "BOOL": 1,
}  # fmt: skip


def read_header(path: Path, *, limits: Limits = LIMITS) -> dict[str, Any]:
    """The JSON header, with every claim checked against the file: names, types, shapes, and bytes without overlap.

    Raises:
        RefusedFileError: a claim does not hold.
    """
    with open_regular(path, what="weights") as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if length > limits.header_bytes:
            raise RefusedFileError("size", f"{path} claims a header of {length:,} bytes")
        if not 2 <= length <= size - 8:
            raise RefusedFileError("damaged", f"{path} is not a whole safetensors file")
        raw = file.read(length)
    header = parse_untrusted(raw, f"{path}: its header")
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


def parse_untrusted(text: bytes, where: str) -> Any:
    """The value of a JSON text beside or in front of weights.

    Raises:
        RefusedFileError: it is not JSON, or an object in it has two entries of one name.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise RefusedFileError("duplicate", f"{where} holds {shown(twice)} twice")
        return made

    try:
        return parse_json(text, where=where, pairs=unique)
    except RefusedFileError:
        raise
    except UserError as e:
        said = e.wording.marked.removesuffix(f"; {e.hint.marked}")
        raise RefusedFileError("damaged", said) from e


def _span(name: str, entry: Any, held: int, path: Path, limits: Limits) -> tuple[int, int]:
    kind = entry.get("dtype") if isinstance(entry, dict) else entry
    if not isinstance(entry, dict) or not isinstance(kind, str) or kind not in _ITEMSIZE:
        raise RefusedFileError("damaged", f"{path}: {name} is of the unknown type {shown(kind, 40)}", hint=FLOATS)
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
        held = offsets[1] - offsets[0]
        raise RefusedFileError("damaged", f"{path}: {name} has {held} bytes for shape {shown(shape)}")
    return offsets[0], offsets[1]


def load_safetensors(path: Path, *, limits: Limits = LIMITS) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors by name, mapped into memory; the header's metadata).

    Raises:
        RefusedFileError: as :func:`read_header`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    texts = metadata_of(read_header(path, limits=limits))
    try:
        return load_file(path), texts
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as e:
        raise RefusedFileError("damaged", f"{path} cannot be read: {one_line(e)}") from e


def metadata_of(header: Mapping[str, Any]) -> dict[str, str]:
    """The texts that a header holds beside its tensors."""
    texts = header.get("__metadata__")
    return {k: v for k, v in texts.items() if isinstance(v, str)} if isinstance(texts, dict) else {}
