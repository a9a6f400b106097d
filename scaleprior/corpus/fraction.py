"""A fraction: the first N images of a corpus in hash order, readable at random, cheap in worker processes.

Rows load when first asked for, from the row groups of the prefix alone. Pickling carries the path and N, not the
rows; a forked worker shares the parent's rows and opens its own files.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scaleprior.corpus.digest import IndexDigest
from scaleprior.corpus.images import decode
from scaleprior.corpus.index_schema import COLUMNS, check_columns, sound_rows
from scaleprior.corpus.parquet_files import parquet_errors, plain_texts, read_footer
from scaleprior.corpus.shards import ByteReader
from scaleprior.errors import UserError
from scaleprior.files import atomic_path

if TYPE_CHECKING:
    from scaleprior.corpus.label_space import LabelSpace

__all__ = ["FACTS_KEY", "LABEL_SPACE_KEY", "Fraction", "Whole", "csr"]

FACTS_KEY = b"scaleprior.corpus"
LABEL_SPACE_KEY = b"scaleprior.label_space"

_TEXTS = ["key", "path", "shard"]
_CANNOT, _REBUILD = "cannot read the index", "build the index again"


class Whole(Protocol):
    """What a fraction needs to know of its corpus; ``Corpus`` says what the names mean."""

    path: Path
    name: str
    facts: dict[str, Any]
    root: Path
    fingerprint: str

    def __init__(self, path: Path, facts: Mapping[str, Any], *, root: str | Path | None = None) -> None: ...

    def __len__(self) -> int: ...

    @property
    def parquet(self) -> Path: ...

    @property
    def upright(self) -> bool: ...

    @property
    def label_space(self) -> LabelSpace: ...

    def prefix_fingerprint(self, images: int) -> str: ...


class Fraction:
    """The first ``images`` rows of ``corpus``; made by ``Corpus.fraction``. Images are numbered 0 to N - 1.

    Attributes:
        corpus: what it is a fraction of.
        images: N, also ``len(self)``.
    """

    def __init__(self, corpus: Whole, images: int) -> None:
        self.corpus = corpus
        self.images = images

    def __len__(self) -> int:
        return self.images

    def __repr__(self) -> str:
        return f"Fraction({self.images} of {self.corpus!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self.corpus), self.corpus.path, self.corpus.facts, self.corpus.root, self.images)

    @property
    def ratio(self) -> float:
        """Share of the corpus, in (0, 1]."""
        return self.images / len(self.corpus)

    @property
    def label_space(self) -> LabelSpace:
        """What the labels mean."""
        return self.corpus.label_space

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) that identifies these rows; for the whole corpus it is the corpus' own."""
        return self.corpus.prefix_fingerprint(self.images)

    def keys(self) -> list[str]:
        """The N keys in hash order."""
        return self._read_columns("key").column("key").to_pylist()

    def hashes(self) -> np.ndarray:
        """uint64 [N], ascending: the hash of each key, which also seeds what is random about an image."""
        return self._read_columns("hash").column("hash").to_numpy()

    def labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels as given (without ancestors), CSR: int32 [M], ascending and unique in each row, and int64 [N + 1]."""
        return self._lists("labels")

    def absent(self) -> tuple[np.ndarray, np.ndarray]:
        """Labels verified not to be there (without descendants), CSR as :meth:`labels`; what neither lists is unknown.

        No present label, nor one of its ancestors, is among an image's absent ones.
        """
        if not self.has_absent:
            return np.zeros(0, dtype=np.int32), np.zeros(self.images + 1, dtype=np.int64)
        return self._lists("absent")

    @property
    def has_absent(self) -> bool:
        """Whether the corpus records labels that are verified to be absent; then what is not listed is unknown."""
        return "absent" in self.columns

    @cached_property
    def columns(self) -> list[str]:
        """Those of the index: ``absent`` and ``crc32`` are not in every one."""
        return [name for name in COLUMNS if name in self._footer.schema.to_arrow_schema().names]

    @cached_property
    def _footer(self) -> pq.FileMetaData:
        """Of a file that has the columns of an index, and no fewer rows than the corpus has images."""
        path = self.corpus.parquet
        with self._reading():
            # a hash has 8 bytes that no compression shortens
            footer = read_footer(
                path, said=f"{_CANNOT} {path}", hint=_REBUILD, rows=0, rows_per_byte=1 / 8, texts=_TEXTS
            )
            check_columns(footer.schema.to_arrow_schema())
        if footer.num_rows < self.images:
            raise UserError(f"{path} holds {footer.num_rows} rows, corpus.json says {len(self.corpus)}", hint=_REBUILD)
        return footer

    def _reading(self) -> contextlib.AbstractContextManager[None]:
        return parquet_errors(f"{_CANNOT} {self.corpus.parquet}", hint=_REBUILD)

    def _opened(self) -> pq.ParquetFile:
        assert self._footer.num_rows >= self.images  # which has been looked at before a page is
        return pq.ParquetFile(self.corpus.parquet, read_dictionary=_TEXTS)

    def _sound(self, table: pa.Table) -> pa.Table:
        """``table`` as an index has it: no value is missing, and labels are places in the label space."""
        return sound_rows(plain_texts(table, kept="shard"), nodes=self.corpus.facts["label_space"]["nodes"])

    def _lists(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        return csr(self._read_columns(column), column)

    def batches(self, *columns: str, whole: bool = False) -> Iterator[pa.Table]:
        """Some columns of the N rows, a row group at a time: a pass over any number of images in bounded memory.

        Args:
            whole: of all rows that the file has, be they more than N.
        """
        left = self._footer.num_rows if whole else self.images
        with self._reading():
            file = self._opened()
        with file:
            for group in range(file.num_row_groups):
                if left <= 0:
                    return
                with self._reading():
                    table = file.read_row_group(group, columns=list(columns), use_threads=False)
                    table = self._sound(table.slice(0, left))
                left -= table.num_rows
                yield table

    def read(self, index: int) -> bytes:
        """The encoded image ``index``.

        Raises:
            IndexError: outside [0, N).
            UserError: the file is gone or shorter than indexed, or these bytes are others; names it.
        """
        if not 0 <= index < self.images:
            raise IndexError(f"image {index} of a fraction of {self.images} images")
        files, offsets, sizes, checksums = self._locations
        file = files[index].as_py()
        data = self._reader.read(file, int(offsets[index]), int(sizes[index]))
        # 0.08 ms of 110 KB, which take 2 ms and more to decode
        if checksums is not None and zlib.crc32(data) != checksums[index]:
            raise UserError(
                f"{os.path.join(self.corpus.root, file)}: the {len(data):,} bytes from {int(offsets[index]):,} on are "
                "not those that were indexed",
                hint="copy the file again, or build the index again",
            )
        return data

    def extents(self, start: int = 0) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Where the images from ``start`` on lie: the files, tars or images, relative to the corpus' root; int [n],
        which of them has each image; int64 [n], up to which byte."""
        import pyarrow.compute as pc

        files, offsets, sizes, _ = self._locations
        encode = pc.dictionary_encode  # pyright: ignore[reportAttributeAccessIssue] (made when pyarrow is imported)
        coded = encode(files[start:])
        return coded.dictionary.to_pylist(), coded.indices.to_numpy(), (offsets + sizes)[start:]

    def decode(
        self, index: int, *, order: str = "RGB", strict: bool = False, warn: Callable[[str], None] | None = None
    ) -> np.ndarray:
        """The pixels of image ``index``, uint8 [H, W, 3], turned or not as the corpus was indexed.

        Args:
            order, strict, warn: as of ``images.decode``.

        Raises:
            IndexError, UserError: as :meth:`read`.
            ImageError: it cannot be decoded.
        """
        return decode(self.read(index), order=order, upright=self.corpus.upright, strict=strict, warn=warn)

    def save(self, path: str | Path) -> None:
        """Write these rows as one Parquet file that ``Corpus.open`` opens; images stay where they are. Atomic."""
        facts = dict(self.corpus.facts)
        facts["images"] = self.images
        facts["fingerprint"] = self.fingerprint
        # lets a fraction of the saved fraction have the same identity as that fraction of the corpus
        facts.setdefault("prefix_of", [self.corpus.fingerprint, len(self.corpus)])
        facts["root"] = str(self.corpus.root.absolute())
        table = self._read_columns()
        digest = IndexDigest(facts["schema"], facts["salt"], self.label_space.fingerprint)
        digest.update(table)
        facts["columns"] = digest.columns()
        table = table.replace_schema_metadata(
            {FACTS_KEY: json.dumps(facts), LABEL_SPACE_KEY: json.dumps(self.label_space.to_dict())}
        )
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary, compression="zstd", row_group_size=65_536)

    @cached_property
    def _locations(self) -> tuple[pa.Array, np.ndarray, np.ndarray, np.ndarray | None]:
        """File of each image relative to the root (tar or plain file), its first byte, size, and CRC-32 if known."""
        import pyarrow.compute as pc

        known = "crc32" in self.columns
        table = self._read_columns("shard", "path", "offset", "size", *(["crc32"] if known else []))
        shard = table.column("shard").cast(pa.string())
        plain = pc.equal(shard, "")  # pyright: ignore[reportAttributeAccessIssue] (made when pyarrow is imported)
        file = pc.if_else(plain, table.column("path"), shard)  # pyright: ignore[reportAttributeAccessIssue]
        checksums = table.column("crc32").to_numpy() if known else None
        return file.combine_chunks(), table.column("offset").to_numpy(), table.column("size").to_numpy(), checksums

    @cached_property
    def _reader(self) -> ByteReader:
        return ByteReader(self.corpus.root)

    def _read_columns(self, *columns: str) -> pa.Table:
        """The first N rows of some columns, all by default, from as few row groups as hold them."""
        with self._reading():
            with self._opened() as file:
                groups, rows = [], 0
                while rows < self.images and len(groups) < file.num_row_groups:
                    rows += file.metadata.row_group(len(groups)).num_rows
                    groups.append(len(groups))
                # without Arrow's threads: a worker forked from a process that used them must not wait for one
                table = file.read_row_groups(groups, columns=list(columns) or None, use_threads=False)
            return self._sound(table.slice(0, self.images))


def csr(table: pa.Table, column: str) -> tuple[np.ndarray, np.ndarray]:
    """A column of lists of int32: all of them one after the other [M], and where each row begins, int64 [N + 1]."""
    rows = table.column(column).combine_chunks()
    counts = rows.value_lengths().to_numpy(zero_copy_only=False)
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    return rows.flatten().to_numpy(zero_copy_only=False).astype(np.int32), offsets


def _restore(kind: type[Whole], path: Path, facts: dict[str, Any], root: Path, images: int) -> Fraction:
    return Fraction(kind(path, facts, root=root), images)
