"""Recognise what a source folder holds and open it with the importer for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scaleprior.corpus.importers.doubts import left_packed, unread_tables
from scaleprior.corpus.importers.source import Source
from scaleprior.corpus.importers.tables.options import TableOptions
from scaleprior.corpus.importers.walk import hidden, is_folder
from scaleprior.corpus.importers.without_table import PACKED_TABLES, files_given, source_without_table
from scaleprior.corpus.label_space import LabelSpace
from scaleprior.corpus.magic import compressed, refuse_compressed, unpacked
from scaleprior.corpus.names import refuse_undecodable
from scaleprior.errors import UserError
from scaleprior.progress import ProgressFn
from scaleprior.wording import parameter

__all__ = ["open_source"]

_TABLES = ("labels.csv", "labels.parquet")
_TABLE_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")


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
    class_names: str | Path | None = None,
    verified: bool = True,
    progress: ProgressFn | bool | None = None,
) -> Source:
    """Open a source of labelled images.

    In this order: a table of labels (given, or ``labels.csv`` / ``labels.parquet`` in the folder) with tar files
    beside it; such a table with plain image files; Hugging Face's Parquet files with images; tars, which their members
    say to be WebDataset shards, a tar for each class, a tar of such tars, or class folders in tars; class folders.

    Args:
        path: the source folder, the table itself (its images lie in the table's folder), a tar, a Parquet file with
            images, or a pattern of those, such as ``train-{0000..1023}.tar`` or ``train-*.tar``.
        labels: the table, CSV with a header line or Parquet.
        hierarchy: hierarchy file; by default ``hierarchy.json`` in the folder, Open Images' beside its tables, else a
            flat label space.
        descriptions: CSV of label and name; by default Open Images' beside its tables.
        file_column, label_column, separator, missing, confidence_column, min_confidence, uncertain, encoding,
            skip_missing: how the table is meant, see ``tables.TableOptions``; by default the table says it.
            ``label_column`` is also of WebDataset shards a key of their JSON, or ``cls``, ``json`` or ``txt``; that and
            ``file_column`` are also columns of Parquet files with images.
        split: take only rows whose ``split_column`` has this value; without a table, only the folder of this name, or
            files with this word in their names.
        split_column: see ``split``.
        class_names: of labels that are numbers, in WebDataset shards and Parquet files: a file with a name a line, or
            JSON; by default ``classnames.txt``, ``class_names.txt`` or ``classes.txt`` beside the shards, or Parquet's
            own metadata.
        verified: the index builder will decode the images. Otherwise images of formats that are not read are left out
            here, where there is no table.
        progress: while tars without a table are listed: True for a bar; or called with (tars listed, tars in all, {}).

    Raises:
        UserError: missing or empty folder, missing or malformed table or hierarchy; names the path.
    """
    given = files_given(path) if labels is None else None
    path = Path(path) if given is None else Path(os.path.commonpath([file.absolute().parent for file in given]))
    refuse_undecodable(path)
    if path.is_file() and labels is None:
        path, labels = path.parent, path
    if not path.is_dir():
        raise UserError(f"source folder not found: {path}", hint="check the path")
    if not any(path.iterdir()):
        raise UserError(f"source folder {path} is empty", hint="give a folder of class folders, or tars with labels")
    if labels is None and given is None:
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

        if class_names is not None:
            raise UserError(
                f"{parameter('class_names')} {str(class_names)!r} is not for a table of labels", hint="leave it out"
            )
        tars, packed = _tars_in(path), _packed(path)
        source = table_source(
            path, labels, options, tars=tars, packed=packed, hierarchy=hierarchy, descriptions=descriptions
        )
        return replace(source, doubts=(*source.doubts, *left_packed(path, packed))) if tars else source
    column = label_column[0] if isinstance(label_column, Sequence) and len(label_column) == 1 else label_column
    for option, value in {**options.given(), **({"descriptions": descriptions} if descriptions else {})}.items():
        if option != "file_column" and not (option == "label_column" and isinstance(column, str)):
            raise UserError(
                f"{parameter(option)} {value!r} needs a table of labels, {path} has none",
                hint=f"pass {parameter('labels', words='TABLE')}",
            )
    if hierarchy is None and (path / "hierarchy.json").is_file():
        hierarchy = path / "hierarchy.json"
    label_space = None if hierarchy is None else LabelSpace.load(hierarchy)
    tables = _unread_tables(path) if given is None else []
    _refuse_tables_alone(path, tables)
    source = source_without_table(
        path,
        given,
        label_space=label_space,
        file_column=file_column,
        label_column=column if isinstance(column, str) else None,
        class_names=class_names,
        split=split,
        readable=not verified,
        progress=progress,
    )
    return replace(source, doubts=(*unread_tables(path, tables), *source.doubts))


def _refuse_tables_alone(path: Path, tables: Sequence[Path]) -> None:
    """A folder of images with a table of another name than ours."""
    others = [entry for entry in os.scandir(path) if not hidden(entry.name)]
    if tables and not any(is_folder(entry) or entry.name.endswith((".tar", ".parquet")) for entry in others):
        raise UserError(
            f"{path} has no class folders, and no labels.csv; it holds {tables[0].name!r}",
            hint=f"if this is the table of labels, give {parameter('labels', str(tables[0]))}",
        )


def _unread_tables(path: Path) -> list[Path]:
    """Tables in the folder with columns that are called like those of files and labels; sorted."""
    tables = [file for file in sorted(path.iterdir()) if file.name.lower().endswith(_TABLE_SUFFIXES)]
    if not tables:
        return []
    from scaleprior.corpus.importers.tables.columns import may_hold_labels

    return [table for table in tables if not hidden(table.name) and may_hold_labels(table)]


def _tars_in(path: Path) -> list[Path]:
    tars = sorted(path.glob("*.tar"))
    for tar in tars:
        refuse_undecodable(tar)
        refuse_compressed(tar)
    return tars


def _packed(path: Path) -> list[Path]:
    """Compressed files in the folder that nobody has unpacked beside themselves, sorted."""
    found = [entry for entry in sorted(path.iterdir()) if not hidden(entry.name) and compressed(entry)]
    found = [entry for entry in found if not entry.name.lower().endswith(PACKED_TABLES)]
    return [archive for archive in found if not unpacked(archive).exists()]
