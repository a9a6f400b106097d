"""Building an index: rows in any order become a Parquet file sorted by ``hash64(key, salt)``.

Memory stays bounded for any number of rows: they stream into a Parquet file as they come, DuckDB sorts that file out
of core (it spills sorted runs beside the index and merges them, which Arrow's in-memory sort cannot), and the sorted
rows stream into ``index.parquet``. Duplicates are neighbours by then.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scaleprior.corpus.digest import IndexDigest
from scaleprior.corpus.duck import connect
from scaleprior.corpus.hashing import hash64
from scaleprior.corpus.index_schema import ABSENT, CHECKSUM, INDEX_SCHEMA
from scaleprior.corpus.label_space import LabelSpace
from scaleprior.corpus.notes import Notes
from scaleprior.corpus.shards import ByteReader
from scaleprior.corpus.verification import Verification
from scaleprior.errors import FailureError, UserError
from scaleprior.files import write_json
from scaleprior.progress import ProgressFn

__all__ = ["SCHEMA_VERSION", "ImageRow", "write_index"]

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
_UNSORTED_SCHEMA = INDEX_SCHEMA.set(3, pa.field("shard", pa.string())).append(ABSENT).append(CHECKSUM)
_GROUP_ROWS = 65_536  # rows of a Parquet row group: what opening a small fraction reads at most


class ImageRow(NamedTuple):
    """One image of a source.

    Attributes:
        key: the image's identity, a relative POSIX path or a tar member's name.
        labels: ids in the label space.
        shard: tar file relative to the root, "" for a plain file.
        path: the file relative to the root, or the member's name.
        offset: first byte within the file or tar.
        size: bytes.
        absent: ids of labels that somebody has verified not to be there; labels in neither tuple are unknown.
        checksum: CRC-32 of the bytes; None where nobody has read them.
    """

    key: str
    labels: tuple[str, ...]
    shard: str
    path: str
    offset: int
    size: int
    absent: tuple[str, ...] = ()
    checksum: int | None = None


def write_index(
    rows: Iterable[ImageRow],
    folder: Path,
    *,
    label_space: LabelSpace,
    root: str | Path,
    name: str,
    source: Mapping[str, Any],
    salt: str = "",
    verify: bool = True,
    strict: bool = False,
    max_skipped: float = 0.05,
    total: int = 0,
    notes: Notes | None = None,
    memory_limit: str = "1GB",
    progress: ProgressFn | None = None,
) -> None:
    """Write ``index.parquet``, ``label_space.json`` and ``corpus.json`` into an existing folder.

    Args:
        rows: see ``ImageRow``.
        folder: where to write; it must not be visible under a final name yet.
        label_space: what the rows' label ids mean.
        root: folder that the rows' shards and paths are relative to; "." is the index folder itself.
        name: for people.
        source: what the rows came from, kept in ``corpus.json`` (at least ``{"kind": ...}``).
        salt: of the hash order.
        verify: decode every image; those that fail are skipped, counted and listed.
        strict: files that are out of order without harm to their pixels fail, too; otherwise they are counted.
        max_skipped: largest accepted share of skipped images, in [0, 1].
        total: rows expected, for the progress report; 0 when unknown.
        notes: what the importer met beside the images, complete when the rows have ended; kept in ``corpus.json``.
        memory_limit: of the sort, in DuckDB's notation; more rows than fit spill to the disk.

    Raises:
        UserError: a duplicate key, an unknown label, a key that is absolute, no rows, too many skipped.
    """
    notes = notes or Notes()
    reader = ByteReader(folder if str(root) == "." else root) if verify else None
    verification = Verification(reader, limit=max_skipped, strict=strict, notes=notes)
    unsorted = folder / "unsorted.parquet"
    absent, unread = _Absent(), 0
    with pq.ParquetWriter(unsorted, _UNSORTED_SCHEMA, compression="zstd") as writer:
        for batch in verification.batches(rows, total, progress):
            if batch:
                unread += sum(row.checksum is None for row in batch)
                writer.write_batch(_encode(batch, label_space, salt, absent))
    images = pq.read_metadata(unsorted).num_rows
    verification.judge(images)
    digest = IndexDigest(SCHEMA_VERSION, salt, label_space.fingerprint)
    schema = INDEX_SCHEMA.append(ABSENT) if absent.labels else INDEX_SCHEMA
    schema = schema if unread else schema.append(CHECKSUM)
    with pq.ParquetWriter(folder / "index.parquet", schema, compression="zstd") as writer:
        for table in _sorted_groups(unsorted, folder, memory_limit, schema):
            digest.update(table)
            writer.write_table(table, row_group_size=_GROUP_ROWS)
    unsorted.unlink()
    label_space.save(folder / "label_space.json")
    facts = {
        "schema": SCHEMA_VERSION,
        "name": name,
        "salt": salt,
        "images": images,
        "fingerprint": digest.hexdigest(upright=verification.turned > 0),
        "columns": digest.columns(),
        "label_space": {"nodes": len(label_space), "leaves": len(label_space.leaves)},
        "source": dict(source),
        "root": "." if str(root) == "." else os.path.abspath(root),
        **verification.facts(),
        **notes.to_dict(),
    }
    if absent.labels or absent.contradicted:
        facts["absent"] = {"labels": absent.labels, "contradicted": absent.contradicted}
    write_json(folder / "corpus.json", facts)
    logger.info(
        "indexed %d images, skipped %d, fingerprint %s", images, verification.skipped, facts["fingerprint"][:12]
    )


@dataclass
class _Absent:
    """How many absent labels are stored, and how many are not because a present label contradicts them."""

    labels: int = 0
    contradicted: int = 0


def _encode(rows: list[ImageRow], label_space: LabelSpace, salt: str, absent: _Absent) -> pa.RecordBatch:
    for row in rows:
        _check_key(row.key)
    labels = _numbered(rows, "labels", label_space)
    keys = [row.key for row in rows]
    columns = {
        "key": keys,
        "hash": hash64(keys, salt),
        "labels": labels,
        "shard": [row.shard for row in rows],
        "path": [row.path for row in rows],
        "offset": [row.offset for row in rows],
        "size": [row.size for row in rows],
        "absent": _settled(rows, labels, label_space, absent),
        "crc32": [row.checksum for row in rows],
    }
    return pa.record_batch([pa.array(columns[f.name], type=f.type) for f in _UNSORTED_SCHEMA], schema=_UNSORTED_SCHEMA)


def _numbered(rows: list[ImageRow], field: str, label_space: LabelSpace) -> list[list[int]]:
    """The rows' ``labels`` or ``absent`` as indices in the label space, ascending and unique."""
    numbers: dict[str, int] = {}  # each label is looked up once
    numbered = []
    for row in rows:
        labels = getattr(row, field)
        try:
            numbers.update((label, label_space.index(label)) for label in labels if label not in numbers)
        except UserError as e:
            raise UserError(f"image {row.key!r}: {e}") from e
        numbered.append(sorted({numbers[label] for label in labels}))
    return numbered


def _settled(rows: list[ImageRow], labels: list[list[int]], label_space: LabelSpace, count: _Absent) -> list[list[int]]:
    """The absent labels of each row that its present ones do not contradict."""
    absent = _numbered(rows, "absent", label_space)
    given = sum(map(len, absent))
    if not given:
        return absent
    kept, offsets = label_space.settle_absent(*_csr(labels), *_csr(absent))
    count.labels += len(kept)
    count.contradicted += given - len(kept)
    return [row.tolist() for row in np.split(kept, offsets[1:-1])]


def _csr(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    flat = np.array([label for row in rows for label in row], dtype=np.int64)
    return flat, np.cumsum([0, *map(len, rows)])


def _check_key(key: str) -> None:
    parts = key.split("/")
    if not all(part not in ("", ".", "..") for part in parts) or "\0" in key:
        raise UserError(f"key {key!r} is not a relative path without . and ..", hint="use paths relative to the root")
    try:
        key.encode("utf-8")
    except UnicodeEncodeError as e:
        raise UserError(f"the file name {key!r} is not UTF-8", hint="rename the file") from e


def _sorted_groups(unsorted: Path, folder: Path, memory_limit: str, schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows sorted by (hash, key), a row group at a time; a key that repeats is an error."""
    import duckdb

    ordered, spill = folder / "sorted.parquet", folder / "spill"
    # ties of the 64-bit hash, the first expected among about 5 billion keys, are ordered by the key itself
    query = f"SELECT * FROM read_parquet({_quoted(unsorted)}) ORDER BY hash, key"
    try:
        with connect(spill, memory_limit=memory_limit) as connection:
            connection.execute(f"COPY ({query}) TO {_quoted(ordered)} (FORMAT parquet, COMPRESSION zstd)")
    except duckdb.Error as e:
        reason = str(e).splitlines()[0]
        raise FailureError(f"sorting the index failed: {reason}", hint="free disk space or memory, run again") from e
    previous, last = None, np.uint64(0)
    with pq.ParquetFile(ordered) as file:
        for batch in file.iter_batches(_GROUP_ROWS):
            keys, hashes = batch.column("key"), batch.column("hash").to_numpy()
            # every fraction rests on this order, so it is checked and not believed
            assert hashes[0] >= last, "the sort returned row groups out of order"
            assert np.all(hashes[1:] >= hashes[:-1]), "the sort returned rows out of order"
            _refuse_duplicates(keys, previous)
            previous, last = keys[-1], hashes[-1]
            yield pa.Table.from_batches([batch]).select(schema.names).cast(schema)
    ordered.unlink()
    shutil.rmtree(spill, ignore_errors=True)


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _refuse_duplicates(keys: pa.Array, previous: pa.Scalar | None) -> None:
    # pyarrow makes its functions when it is imported, where no checker sees them
    same = pc.equal(keys[1:], keys[:-1])  # pyright: ignore[reportAttributeAccessIssue]
    repeated = keys[1:].filter(same).to_pylist()
    if previous is not None and previous.as_py() == keys[0].as_py():
        repeated.insert(0, keys[0].as_py())
    if repeated:
        shown = ", ".join(map(repr, list(dict.fromkeys(repeated))[:5]))
        raise UserError(f"duplicate key {shown}", hint="each image must occur once; remove the repeated rows")
