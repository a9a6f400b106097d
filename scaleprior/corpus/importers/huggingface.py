"""Importer for Hugging Face's Parquet files, whose rows hold the encoded images themselves.

Parquet compresses and pages its columns, so an image in it cannot be read by offset: the images are written once into
shards beside the index, as many bytes again as they have, and the Parquet files are not needed after that.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scaleprior.corpus.importers.class_names import ClassNames
from scaleprior.corpus.importers.doubts import NO_LABELS, alike, mostly_unlabelled, nearly_one_each, one_label
from scaleprior.corpus.importers.source import Source
from scaleprior.corpus.importers.splits import files_of_split
from scaleprior.corpus.index import ImageRow
from scaleprior.corpus.label_space import LabelSpace
from scaleprior.corpus.magic import HEAD, image_suffix
from scaleprior.corpus.names import is_texts
from scaleprior.corpus.notes import Notes
from scaleprior.corpus.parquet_files import parquet_errors, read_footer, unpacked_bytes
from scaleprior.corpus.shards import ShardWriter
from scaleprior.errors import UserError
from scaleprior.pages.numbers import size
from scaleprior.parsing import parse_json
from scaleprior.wording import parameter, shown

__all__ = ["holds_images", "huggingface_source"]

logger = logging.getLogger(__name__)

_IMAGE_COLUMNS = ("image", "img", "jpg", "png", "picture", "pixel_values")
_LABEL_COLUMNS = ("label", "labels", "cls", "class", "wnid", "fine_label", "category", "categories")
_IMAGES_AT_ONCE = 32  # held in memory
_LABELS_AT_ONCE = 10_000
_NESTED = 10  # features within features
_AROUND = 2048  # bytes of headers and padding around an image in a shard
_LONGEST_STEM = 100  # bytes of a name in a tar's header


def holds_images(path: Path) -> bool:
    """Whether a Parquet file has a column of encoded images."""
    try:
        return bool(_image_columns(path, _footer(path).schema.to_arrow_schema()))
    except UserError:
        return False


def huggingface_source(
    files: Sequence[Path],
    *,
    label_space: LabelSpace | None = None,
    file_column: str | None = None,
    label_column: str | None = None,
    class_names: str | Path | None = None,
    split: str | None = None,
) -> Source:
    """Images and labels of Parquet files; ``Source.unpack`` writes the images into ``shards/`` of the index.

    Keys are the file's name and the row's number. Only labels are read here.

    Args:
        label_space: what the labels mean; None makes a flat one of those that occur.
        file_column: of the images; by default the first of the usual names, else the only one that holds images.
        label_column: numbers, texts or lists of them; by default the first of the usual names.
        class_names: of labels that are numbers; by default those that the file's ``huggingface`` metadata list.
        split: only files of this split, by their names (``train-00000-of-00010``) or their folder's.

    Raises:
        UserError: no such column or split, a label of another form, or one that is not in the label space.
    """
    chosen, doubts = files_of_split(files, split, "Parquet files")
    root = Path(os.path.commonpath([path.absolute().parent for path in chosen]))
    opened = _Files([path.absolute() for path in chosen], root, file_column, label_column, class_names)
    counts, unlabelled = opened.count_labels()
    labels = sorted(counts)
    images = opened.images
    if label_space is None:
        doubts += one_label(labels, str(root), NO_LABELS) + nearly_one_each(counts, images) + alike(labels, "labels")
    doubts += mostly_unlabelled(unlabelled, images)
    if not labels:
        raise UserError(f"column {opened.label_column!r} of {files[0]} holds no label", hint=_choose_label())
    space = label_space or LabelSpace.flat(labels)
    for label in labels:
        space.index(label)
    facts = {"path": str(root), "files": str(len(chosen)), **({"split": split} if split is not None else {})}

    def rows() -> Iterator[ImageRow]:
        raise UserError(f"the images of {root} lie in Parquet files", hint="index them with Corpus.build")

    return Source("huggingface", root, space, rows, images, facts, doubts, opened.notes, opened.unpack)


def _choose_label() -> str:
    return f"choose the labels with {parameter('label_column')}"


class _Files:
    """Parquet files of one schema."""

    def __init__(
        self,
        files: Sequence[Path],
        root: Path,
        file_column: str | None,
        label_column: str | None,
        class_names: str | Path | None,
    ) -> None:
        self.files, self.root, self.notes = files, root, Notes()
        schema = _footer(files[0]).schema.to_arrow_schema()
        self.image_column: str = _pick(files[0], schema, file_column, _image_columns(files[0], schema), "file_column")
        usual = [name for name in _LABEL_COLUMNS if name in schema.names and name != self.image_column]
        self.label_column: str = _pick(files[0], schema, label_column, usual, "label_column")
        own = _names_in(schema, self.label_column)
        listed = ClassNames.read(class_names, root) if class_names is not None or own is None else None
        self._names = listed or ClassNames(own, f"{files[0]}'s metadata")
        metadata = [self._metadata(path, schema) for path in files]
        self.images: int = sum(each.num_rows for each in metadata)
        self.bytes: int = sum(unpacked_bytes(path, self.image_column) for path in files)

    def _metadata(self, path: Path, first: pa.Schema) -> pq.FileMetaData:
        """Of a file that has the two columns as the first file has them."""
        metadata = _footer(path)
        schema = metadata.schema.to_arrow_schema()
        for column in (self.image_column, self.label_column):
            there = schema.field(column).type if column in schema.names else None
            if there != first.field(column).type:
                raise UserError(
                    f"column {column!r} of {path} is {there or 'not there'}, in {self.files[0]} it is "
                    f"{first.field(column).type}",
                    hint="give files of one form",
                )
        return metadata

    def count_labels(self) -> tuple[Counter[str], int]:
        """Images of each label, and images without one."""
        counts, unlabelled = Counter[str](), 0
        for path in self.files:
            for number, batch in enumerate(self._batches(path, [self.label_column], _LABELS_AT_ONCE)):
                for k, value in enumerate(batch.column(0).to_pylist()):
                    labels = self._labels(path, number * _LABELS_AT_ONCE + k, value)
                    counts.update(labels)
                    unlabelled += not labels
        return counts, unlabelled

    def unpack(self, folder: Path) -> Iterator[ImageRow]:
        """Write the images into ``folder/shards``; a shard's rows come when it is complete.

        Raises:
            UserError: they do not fit on the disk; a row has a path in place of an image.
        """
        self.notes.clear()
        needed, free = self.bytes + self.images * _AROUND, shutil.disk_usage(folder).free
        what = f"{self.images:,} images, {size(needed)}"
        if needed > free:
            raise UserError(
                f"the images of {self.root} ({what}) are to be written beside the index, and {folder.parent} has "
                f"{size(free)} free",
                hint="choose another disk, or free space",
            )
        logger.warning("images in Parquet cannot be read one by one: %s are written into shards beside the index", what)
        waiting: list[ImageRow] = []
        with ShardWriter(folder / "shards") as writer:
            for key, data, labels in self._images():
                suffix = image_suffix(data[:HEAD]) or ".bin"
                shard, member = writer.write(key, data, {"labels": list(labels)}, suffix=suffix)
                shard = f"shards/{shard}"
                if waiting and waiting[0].shard != shard:
                    yield from waiting
                    waiting = []
                waiting.append(ImageRow(key, labels, shard, member.name, member.offset, member.size))
        yield from waiting

    def _images(self) -> Iterator[tuple[str, bytes, tuple[str, ...]]]:
        for file, path in enumerate(self.files):
            stem = path.relative_to(self.root).with_suffix("").as_posix()
            stem = stem if len(stem.encode()) <= _LONGEST_STEM and stem.isascii() else f"{file:06d}"
            row = 0
            for batch in self._batches(path, [self.image_column, self.label_column], _IMAGES_AT_ONCE):
                images = batch.column(batch.schema.get_field_index(self.image_column)).to_pylist()
                labels = batch.column(batch.schema.get_field_index(self.label_column)).to_pylist()
                for image, value in zip(images, labels):
                    data = self._bytes(path, row, image)
                    if data:
                        yield f"{stem}/{row:08d}", data, self._labels(path, row, value)
                    row += 1

    def _bytes(self, path: Path, row: int, image: Any) -> bytes:
        data = image.get("bytes") if isinstance(image, dict) else image
        if data:
            return bytes(data)
        elsewhere = image.get("path") if isinstance(image, dict) else None
        if elsewhere:
            raise UserError(
                f"row {row} of {path} holds no image but the path {shown(elsewhere)}",
                hint="write the Parquet file with the images embedded",
            )
        self.notes.warn("rows without an image (left out)", f"row {row} of {path.name}")
        return b""

    def _labels(self, path: Path, row: int, value: Any) -> tuple[str, ...]:
        return self._names.labels(value, where=f"{path}, row {row}, column {self.label_column!r}")

    def _batches(self, path: Path, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
        with _reading(path):
            # a buffer size makes Arrow stream the pages, where it would read a row group's whole column
            file = pq.ParquetFile(path, buffer_size=1 << 20)
        with file:
            batches = file.iter_batches(rows, columns=columns, use_threads=False)
            while True:
                with _reading(path):
                    batch = next(batches, None)
                    if batch is None:
                        return
                    batch.validate(full=True)
                yield batch


def _footer(path: Path) -> pq.FileMetaData:
    return read_footer(path, said=f"{path} cannot be read", hint="fetch it again")


def _reading(path: Path) -> contextlib.AbstractContextManager[None]:
    return parquet_errors(f"{path} cannot be read", hint="fetch it again")


def _pick(path: Path, schema: pa.Schema, wanted: str | None, usual: Sequence[str], option: str) -> str:
    if wanted is None and usual:
        return usual[0]
    if wanted in schema.names:
        return str(wanted)
    what = f"column {wanted!r}" if wanted is not None else "column of labels that is called as usual"
    raise UserError(
        f"{path} has no {what}; its columns are {', '.join(map(repr, schema.names))}",
        hint=f"choose one with {parameter(option)}",
    )


def _image_columns(path: Path, schema: pa.Schema) -> list[str]:
    """Columns of encoded images, those with the usual names first."""
    found = [field.name for field in schema if _is_image_struct(field.type)]
    binary = [f.name for f in schema if pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type)]
    if not found and binary:  # any bytes: look at the first
        with _reading(path), pq.ParquetFile(path, buffer_size=1 << 20) as file:
            first = next(file.iter_batches(1, columns=binary, use_threads=False), None)
        row = first.to_pylist()[0] if first is not None and first.num_rows else {}
        found = [name for name in binary if image_suffix((row.get(name) or b"")[:HEAD])]
    return sorted(found, key=lambda name: _IMAGE_COLUMNS.index(name) if name in _IMAGE_COLUMNS else len(_IMAGE_COLUMNS))


def _is_image_struct(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    inner = kind.field("bytes").type
    return pa.types.is_binary(inner) or pa.types.is_large_binary(inner)


def _names_in(schema: pa.Schema, column: str) -> list[str] | None:
    """The class names that Hugging Face's metadata give the column (also of a list of labels)."""
    try:
        said = parse_json((schema.metadata or {})[b"huggingface"], where="the huggingface metadata")
        features = said["info"]["features"]
        found = features[column]
        for _ in range(_NESTED):
            if "names" in found:
                break
            found = found[0] if isinstance(found, list) else found["feature"]
        names = found["names"]
        return names if is_texts(names) else None
    except (KeyError, TypeError, ValueError, IndexError):  # UserError is a ValueError
        return None
