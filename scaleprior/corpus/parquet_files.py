"""The gate for Parquet files of others: regular files whose rows and bytes, as their footers say, fit their size.

Parquet writes a value that repeats once, with a count: a kilobyte can stand for billions of rows, or for a long text in
each of a million. What a footer says is held against limits before a page is read. Where pages hold other than their
footer says, Arrow and DuckDB are who notices.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scaleprior.errors import UserError
from scaleprior.parsing import open_regular
from scaleprior.wording import bytes_in_words, one_line

__all__ = ["parquet_errors", "plain_texts", "read_footer", "unpacked_bytes"]

_VALUES = 10_000_000, 32
"""Values of a column that any file may have, and more of them a byte of the file. 1,000,000 rows of labels, numbers and
paths that differ have a value in 4 bytes, of which zstd leaves 1 where they are regular."""
_BYTES = 64 << 20, 200
"""Bytes of pages that any file may have, and a byte of the file. Paths become a tenth by zstd, images nothing."""
_TEXT = 4096
"""Bytes that the texts of a column have on average, at most: as many as Linux takes as a path."""
_BY_REFERENCE = "DELTA_BYTE_ARRAY"  # a value is so many bytes of the one before, and more


@contextlib.contextmanager
def parquet_errors(said: str, *, hint: str) -> Iterator[None]:
    """Within the block whatever Arrow raises of a damaged file is one UserError.

    Args:
        said: what is then wrong, with the path: "cannot read the index a.parquet".
    """
    try:
        yield
    except UserError:
        raise
    except (OSError, pa.ArrowException, MemoryError, ValueError, ArithmeticError, LookupError, TypeError) as e:
        raise UserError(f"{said}: {one_line(e)}", hint=hint) from e


def read_footer(
    path: str | Path,
    *,
    said: str,
    hint: str,
    rows_per_byte: float = _VALUES[1],
    rows: int = _VALUES[0],
    texts: Collection[str] = (),
) -> pq.FileMetaData:
    """What a Parquet file says of itself, if a file of its size can.

    Args:
        said, hint: see :func:`parquet_errors`.
        rows_per_byte, rows: how many the file may have a byte, beside ``rows``; of one whose rows cannot be smaller.
        texts: columns that are to be read as dictionaries, in which no text is repeated.

    Raises:
        UserError: no regular file, no Parquet, or one that expands beyond all measure.
    """
    with open_regular(path, what="Parquet file") as file, parquet_errors(said, hint=hint):
        size = file.seek(0, 2)
        footer = pq.read_metadata(path)
        groups = sum(footer.row_group(k).num_rows for k in range(footer.num_row_groups))
        chunks = _chunks(path)
        if min([footer.num_rows, *(n for chunk in chunks for n in chunk[1:3])]) < 0 or groups != footer.num_rows:
            raise ValueError("its footer counts rows wrongly")
        for column, _, _, encodings in chunks:
            if column in texts and _BY_REFERENCE in encodings:
                raise ValueError(f"column {column} is stored by references to other values")
    values = Counter[str]()
    for column, count, _, _ in chunks:
        values[column] += count
    longest, unpacked = max(values.values(), default=0), sum(chunk[2] for chunk in chunks)
    for number, most, claimed in (
        (footer.num_rows, rows + rows_per_byte * size, f"{footer.num_rows:,} rows"),
        (longest, _VALUES[0] + _VALUES[1] * size, f"{longest:,} values in a column"),
        (unpacked, _BYTES[0] + _BYTES[1] * size, f"{bytes_in_words(unpacked)} unpacked"),
    ):
        if number > most:
            raise UserError(f"{said}: it claims {claimed}, in {size:,} bytes of file", hint=hint)
    return footer


def unpacked_bytes(path: Path, column: str) -> int:
    """Bytes of the pages of ``column``, and of those within it, before they were compressed, as the footer says."""
    return sum(size for name, _, size, _ in _chunks(path) if name == column or name.startswith(f"{column}, "))


def _chunks(path: str | Path) -> list[tuple[str, int, int, str]]:
    """Column, number of values, bytes before compression and encodings of each piece of a column.

    By DuckDB: pyarrow 26 ends the process where the statistics of a piece are damaged.

    Raises:
        ValueError: the footer is damaged.
    """
    import duckdb

    query = "SELECT path_in_schema, num_values, total_uncompressed_size, encodings FROM parquet_metadata(?)"
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        try:
            return connection.execute(query, [str(path)]).fetchall()
        except duckdb.Error as e:
            raise ValueError(one_line(e)) from e


def plain_texts(table: pa.Table, *, kept: str = "") -> pa.Table:
    """``table`` with its dictionaries of texts written out, but for the column ``kept``.

    Raises:
        ValueError: they would be beyond what names of files are, or one is missing.
    """
    import pyarrow.compute as pc

    for at, name in enumerate(table.column_names):
        column = table.column(name)
        if not pa.types.is_dictionary(column.type):
            continue
        if column.null_count:
            raise ValueError(f"column {name} lacks values")
        total = 0
        for chunk in column.chunks:
            lengths = pc.binary_length(chunk.dictionary)  # pyright: ignore[reportAttributeAccessIssue]
            total += int(np.take(lengths.to_numpy(zero_copy_only=False), chunk.indices.to_numpy()).sum(dtype=np.int64))
        if total > _TEXT * (len(column) + 1):
            raise ValueError(f"column {name} unpacks to {bytes_in_words(total)} in {len(column):,} rows")
        if name != kept:
            table = table.set_column(at, pa.field(name, pa.string()), column.cast(pa.string()))
    return table
