"""Tensors into a canonical file: one walk over the numbers checks, hashes and writes them, in a few threads."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scaleprior.backbones.card import CARD_KEY, Card
from scaleprior.backbones.threads import map_groups
from scaleprior.backbones.views import Numbers, Pieces

__all__ = ["tensors_sha256", "write_tensors"]

_TYPES = {
    "torch.float64": "F64", "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16",
    "torch.int64": "I64", "torch.int32": "I32", "torch.uint8": "U8", "torch.bool": "BOOL",
}  # fmt: skip
_SCHEME = b"scaleprior tensors 2\0"  # what the hash of hashes begins with


@dataclass(frozen=True)
class _Place:
    """Where a tensor goes, in bytes behind the header, and what it is called there."""

    kind: str
    shape: tuple[int, ...]
    itemsize: int
    start: int
    end: int


def write_tensors(path: Path, tensors: Mapping[str, Numbers], card: Card) -> tuple[Card, list[str]]:
    """Write a file anew; the caller makes that atomic.

    Returns:
        The card as written, with its hash; the names of the views that hold NaN or infinity.
    """
    places = _places(tensors)
    # As long as the hash that will take its place.
    head = _header(replace(card, tensors_sha256="0" * 64), places)
    path.write_bytes(head)

    def write(names: list[str], pieces: Pieces) -> dict[str, tuple[bytes, bool]]:
        # Without a buffer in between, and with a position of this thread's own.
        with path.open("r+b", buffering=0) as file:
            done = {}
            for name in names:
                file.seek(len(head) + places[name].start)
                done[name] = _write(file, tensors[name], pieces)
            return done

    written = map_groups(write, _sizes(places), Pieces)
    card = replace(card, tensors_sha256=_combine(places, {name: digest for name, (digest, _) in written.items()}))
    with path.open("r+b") as file:
        file.write(_header(card, places))
    return card, sorted(name for name, (_, finite) in written.items() if not finite)


def _write(file: Any, values: Numbers, pieces: Pieces) -> tuple[bytes, bool]:
    """(SHA-256 of what was written, whether it holds finite numbers only, as far as it is a view)."""
    hashed, finite = hashlib.sha256(), True
    for piece in pieces.of(values):
        if piece.dtype == np.float32:
            finite = finite and bool(np.isfinite(piece).all())
        hashed.update(piece)
        rest = memoryview(piece).cast("B")
        while rest:
            rest = rest[file.write(rest) :]
    return hashed.digest(), finite


def tensors_sha256(tensors: Mapping[str, Numbers]) -> str:
    """SHA-256 over name, type, shape and SHA-256 of the bytes of every tensor, in the order of names.

    A hash of hashes, so that several threads share the work.
    """

    def hash_all(names: list[str], pieces: Pieces) -> dict[str, bytes]:
        digests = {}
        for name in names:
            hashed = hashlib.sha256()
            for piece in pieces.of(tensors[name]):
                hashed.update(piece)
            digests[name] = hashed.digest()
        return digests

    places = _places(tensors)
    return _combine(places, map_groups(hash_all, _sizes(places), Pieces))


def _places(tensors: Mapping[str, Numbers]) -> dict[str, _Place]:
    """In the file's order: wider types first, as safetensors has it, so that each starts at a multiple of its width."""
    found, at = {}, 0
    views = {name: isinstance(values, np.ndarray) for name, values in tensors.items()}
    sizes = {name: 4 if views[name] else values.dtype.itemsize for name, values in tensors.items()}
    for name in sorted(tensors, key=lambda name: (-sizes[name], name)):
        values = tensors[name]
        count = values.size if views[name] else values.numel()
        kind = "torch.float32" if views[name] else str(values.dtype)
        end = at + count * sizes[name]
        found[name] = _Place(kind, tuple(values.shape), sizes[name], at, end)
        at = end
    return found


def _sizes(places: Mapping[str, _Place]) -> dict[str, int]:
    return {name: place.end - place.start for name, place in places.items()}


def _combine(places: Mapping[str, _Place], digests: Mapping[str, bytes]) -> str:
    combined = hashlib.sha256(_SCHEME)
    for name in sorted(places):
        combined.update(f"{name}\0{places[name].kind}\0{places[name].shape}\0".encode() + digests[name])
    return combined.hexdigest()


def _header(card: Card, places: Mapping[str, _Place]) -> bytes:
    entries = {
        name: {"dtype": _TYPES[place.kind], "shape": list(place.shape), "data_offsets": [place.start, place.end]}
        for name, place in places.items()
    }
    text = json.dumps({"__metadata__": {CARD_KEY: card.to_json()}, **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
