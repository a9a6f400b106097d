"""The fingerprint of an index, which is of what its rows say and not of where they lie, and digests of every column."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

__all__ = ["IndexDigest"]

_SAID = ("key", "hash", "labels", "size", "absent")  # what rows say, in the fingerprint's order
_PLACES = ("shard", "path", "offset", "crc32")  # where their bytes lie, and what they are


class IndexDigest:
    """SHA-256 over the sorted rows, column by column, so that it does not depend on how rows are grouped.

    Args:
        schema: version of the index.
        salt: of the hash order.
        label_space: its fingerprint.
    """

    def __init__(self, schema: int, salt: str, label_space: str) -> None:
        self._whole = hashlib.sha256(f"{schema}\0{salt}\0{label_space}".encode())
        self._label_space = label_space
        self._columns: dict[str, list[Any]] = {}

    def update(self, table: pa.Table) -> None:
        """Add the next rows; columns count where the index has them, in the first rows as in the last."""
        for name in (*_SAID, *_PLACES):
            if name in table.column_names:
                pieces = _pieces(table.column(name).combine_chunks())
                digests = self._columns.setdefault(name, [hashlib.sha256() for _ in pieces])
                for digest, piece in zip(digests, pieces):
                    digest.update(piece)

    def hexdigest(self, *, upright: bool = False) -> str:
        """The fingerprint of all rows so far.

        Args:
            upright: an image among them is turned by its orientation, so the pixels are others than those that an index
                from before orientations were applied stands for. Without such an image the two are the same.
        """
        whole = self._whole.copy()
        for digest in self._digests(_SAID):
            whole.update(digest)
        if upright:
            whole.update(b"upright")
        return whole.hexdigest()

    def columns(self) -> dict[str, str]:
        """SHA-256 (hex) of each column, and ``label_space``: what tells which of them has changed."""
        columns = {name: hashlib.sha256(b"".join(self._digests([name]))).hexdigest() for name in self._columns}
        return {"label_space": self._label_space, **columns}

    def _digests(self, names: Sequence[str]) -> Iterator[bytes]:
        return (digest.digest() for name in names for digest in self._columns.get(name, ()))


def _pieces(column: pa.Array) -> tuple[bytes, ...]:
    """The values of a column, the same bytes on every machine; of lists their lengths first."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(pa.string())
    if pa.types.is_string(column.type):
        return ("".join(text + "\0" for text in column.to_pylist()).encode("utf-8"),)
    if pa.types.is_list(column.type):
        return (*_pieces(column.value_lengths()), *_pieces(column.flatten()))
    numbers = column.to_numpy(zero_copy_only=False)
    return (np.asarray(numbers, dtype=numbers.dtype.newbyteorder("<")).tobytes(),)
