"""Recognise what a source folder holds and open it with the importer for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scaleprior.corpus.importers.doubts import left_packed
from scaleprior.corpus.importers.source import Source
from scaleprior.corpus.importers.walk import hidden
from scaleprior.corpus.label_space import LabelSpace
from scaleprior.corpus.magic import compressed, refuse_compressed, unpacked, unpacking
from scaleprior.errors import UserError
from scaleprior.wording import parameter, shown

if TYPE_CHECKING:
    from scaleprior.corpus.importers.tables import LabelTable

__all__ = ["open_source"]

_TABLES = ("labels.csv", "labels.parquet")


def open_source(
    path: str | Path,
    *,
    labels: str | Path | None = None,
    hierarchy: str | Path | None = None,
    file_column: str | None = None,
    label_column: str | None = None,
    split: str | None = None,
    split_column: str = "split",
    verified: bool = True,
) -> Source:
    """Open a source of labelled images.

    In this order: a table of labels (given, or ``labels.csv`` / ``labels.parquet`` in the folder) with tar files
    beside it; such a table with plain image files; else class folders, each named after its label.

    Args:
        path: the source folder, or the table itself (its images lie in the table's folder).
        labels: the table, CSV with a header line or Parquet.
        hierarchy: hierarchy file; by default ``hierarchy.json`` in the folder, else a flat label space.
        file_column: the table's column of file or member names; by default file, path, image or filename.
        label_column: its column of labels, several in one CSV cell separated by ";" or as a Parquet list; by default
            label, labels, wnid or class.
        split: take only rows whose ``split_column`` has this value; without a table, only the folder of this name.
        split_column: see ``split``.
        verified: the index builder will decode the images. Otherwise images of formats that are not read are left out
            of class folders here.

    Raises:
        UserError: missing or empty folder, missing or malformed table or hierarchy; names the path.
    """
    path = Path(path)
    _refuse_path(path)
    if path.is_file() and labels is None:
        refuse_compressed(path)
        path, labels = path.parent, path
    if not path.is_dir():
        raise UserError(f"source folder not found: {path}", hint="check the path")
    if not any(path.iterdir()):
        raise UserError(f"source folder {path} is empty", hint="give a folder of class folders, or tars with labels")
    if labels is None:
        labels = next((path / name for name in _TABLES if (path / name).is_file()), None)
    if hierarchy is None and (path / "hierarchy.json").is_file():
        hierarchy = path / "hierarchy.json"
    label_space = None if hierarchy is None else LabelSpace.load(hierarchy)
    if labels is None:
        from scaleprior.corpus.importers.folders import folder_source

        for option, value in {"label_column": label_column, "file_column": file_column}.items():
            if value is not None:
                raise UserError(
                    f"{parameter(option)} {value!r} needs a table of labels, {path} has none",
                    hint=f"pass {parameter('labels', words='TABLE')}",
                )
        return folder_source(path, label_space, split=split, readable=not verified)
    from scaleprior.corpus.importers.tables import LabelTable, file_source
    from scaleprior.corpus.importers.tars import tar_source

    table = LabelTable(
        labels, file_column=file_column, label_column=label_column, split=split, split_column=split_column
    )
    tars, packed = _tars_in(path), _packed(path)
    if packed and not tars:
        _refuse_packed(path, table, packed[0])
    label_space = label_space or LabelSpace.flat(table.distinct_labels())
    if not tars:
        return file_source(path, table, label_space)
    source = tar_source(path, tars, table, label_space)
    return replace(source, doubts=(*source.doubts, *left_packed(path, packed)))


def _refuse_path(path: Path) -> None:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as e:
        raise UserError(f"the path {str(path)!r} is not UTF-8", hint="rename the folder or file") from e


def _tars_in(path: Path) -> list[Path]:
    tars = sorted(path.glob("*.tar"))
    for tar in tars:
        _refuse_path(tar)
    return tars


def _packed(path: Path) -> list[Path]:
    """Compressed files in the folder that nobody has unpacked beside themselves, sorted."""
    found = [entry for entry in sorted(path.iterdir()) if not hidden(entry.name) and compressed(entry)]
    return [archive for archive in found if not unpacked(archive).exists()]


def _refuse_packed(path: Path, table: LabelTable, archive: Path) -> None:
    """A table whose images are not there, and an archive beside it: they are inside."""
    first = next(table.rows(), ("", ()))[0]
    if not (path / first).exists():
        raise UserError(
            f"{table.path} names image {shown(first)}, which is not in {path}; {archive.name!r} there is compressed",
            hint=f"unpack it: {unpacking(archive)}",
        )
