"""Recognise what a source folder holds and open it with the importer for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scaleprior.corpus.importers.doubts import left_packed
from scaleprior.corpus.importers.source import Source
from scaleprior.corpus.importers.tables.options import TableOptions
from scaleprior.corpus.importers.walk import hidden
from scaleprior.corpus.label_space import LabelSpace
from scaleprior.corpus.magic import compressed, refuse_compressed, unpacked
from scaleprior.errors import UserError
from scaleprior.wording import parameter

__all__ = ["open_source"]

_TABLES = ("labels.csv", "labels.parquet")
_PACKED_TABLES = (".csv.gz", ".tsv.gz", ".txt.gz")  # read as they are; images are not, since they are read in place


def open_source(
    path: str | Path,
    *,
    labels: str | Path | None = None,
    hierarchy: str | Path | None = None,
    descriptions: str | Path | None = None,
    file_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    split: str | None = None,
    split_column: str = "split",
    separator: str | None = None,
    missing: str | Sequence[str] | None = None,
    confidence_column: str | None = None,
    min_confidence: float | None = None,
    uncertain: str | None = None,
    encoding: str | None = None,
    skip_missing: bool = False,
    verified: bool = True,
) -> Source:
    """Open a source of labelled images.

    In this order: a table of labels (given, or ``labels.csv`` / ``labels.parquet`` in the folder) with tar files
    beside it; such a table with plain image files; else class folders, each named after its label.

    Args:
        path: the source folder, or the table itself (its images lie in the table's folder).
        labels: the table, CSV with a header line or Parquet.
        hierarchy: hierarchy file; by default ``hierarchy.json`` in the folder, Open Images' beside its tables, else a
            flat label space.
        descriptions: CSV of label and name; by default Open Images' beside its tables.
        file_column, label_column, separator, missing, confidence_column, min_confidence, uncertain, encoding,
            skip_missing: how the table is meant, see ``tables.TableOptions``; by default the table says it.
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
        if not path.name.lower().endswith(_PACKED_TABLES):
            refuse_compressed(path)
        path, labels = path.parent, path
    if not path.is_dir():
        raise UserError(f"source folder not found: {path}", hint="check the path")
    if not any(path.iterdir()):
        raise UserError(f"source folder {path} is empty", hint="give a folder of class folders, or tars with labels")
    if labels is None:
        labels = next((path / name for name in _TABLES if (path / name).is_file()), None)
    options = TableOptions(
        file_column=file_column,
        label_column=label_column,
        split=split,
        split_column=split_column,
        separator=separator,
        missing=missing,
        confidence_column=confidence_column,
        min_confidence=min_confidence,
        uncertain=uncertain,
        encoding=encoding,
        skip_missing=skip_missing,
    )
    if labels is not None:
        from scaleprior.corpus.importers.tables.source import table_source

        tars, packed = _tars_in(path), _packed(path)
        source = table_source(
            path, labels, options, tars=tars, packed=packed, hierarchy=hierarchy, descriptions=descriptions
        )
        return replace(source, doubts=(*source.doubts, *left_packed(path, packed))) if tars else source
    from scaleprior.corpus.importers.folders import folder_source

    for option, value in {**options.given(), **({"descriptions": descriptions} if descriptions else {})}.items():
        raise UserError(
            f"{parameter(option)} {value!r} needs a table of labels, {path} has none",
            hint=f"pass {parameter('labels', words='TABLE')}",
        )
    if hierarchy is None and (path / "hierarchy.json").is_file():
        hierarchy = path / "hierarchy.json"
    label_space = None if hierarchy is None else LabelSpace.load(hierarchy)
    return folder_source(path, label_space, split=split, readable=not verified)


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
