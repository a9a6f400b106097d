"""The fingerprint of an index: what its rows say, in hash order, and nothing of where they lie."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa

__all__ = ["IndexDigest"]


class IndexDigest:
    """SHA-256 over the sorted rows, column by column, so that it does not depend on how rows are grouped.

    Args:
        schema: version of the index.
        salt: of the hash order.
        label_space: its fingerprint.
    """

    def __init__(self, schema: int, salt: str, label_space: str) -> None:
        self._whole = hashlib.sha256(f"{schema}\0{salt}\0{label_space}".encode())
        self._columns: list[Any] = []

    def update(self, table: pa.Table) -> None:
        """Add the next rows; the column ``absent`` counts where the index has it, in the first rows as in the last."""
        pieces = (
            "".join(key + "\0" for key in table.column("key").to_pylist()).encode("utf-8"),
            np.asarray(table.column("hash").to_numpy(), dtype="<u8").tobytes(),
            *_list_bytes(table.column("labels")),
            np.asarray(table.column("size").to_numpy(), dtype="<i8").tobytes(),
            *(_list_bytes(table.column("absent")) if "absent" in table.column_names else ()),
        )
        self._columns = self._columns or [hashlib.sha256() for _ in pieces]
        for column, piece in zip(self._columns, pieces):
            column.update(piece)

    def hexdigest(self, *, upright: bool = False) -> str:
        """Of all rows so far, once.

        Args:
            upright: an image among them is turned by its orientation, so the pixels are others than those that an index
                from before orientations were applied stands for. Without such an image the two are the same.
        """
        for column in self._columns:
            self._whole.update(column.digest())
        if upright:
            self._whole.update(b"upright")
        return self._whole.hexdigest()


def _list_bytes(column: pa.ChunkedArray) -> tuple[bytes, bytes]:
    rows = column.combine_chunks()
    return _bytes(rows.value_lengths()), _bytes(rows.flatten())


def _bytes(numbers: pa.Array) -> bytes:
    return np.asarray(numbers.to_numpy(zero_copy_only=False), dtype="<i4").tobytes()
