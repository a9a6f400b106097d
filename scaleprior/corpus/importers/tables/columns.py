"""Which columns of a table hold files, labels and what is known of them: named, or told by what they are called."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from scaleprior.corpus.importers.tables import sql
from scaleprior.corpus.importers.tables.options import TableOptions
from scaleprior.corpus.importers.tables.reading import TableFile, column_names, headless
from scaleprior.errors import UserError
from scaleprior.wording import parameter, shown

__all__ = ["CHEXPERT", "Columns", "choose_columns", "is_list", "may_hold_labels"]

# In this order and spelling these were the only names once: tables that have several of them keep their meaning.
_FIRST_FILES = ("file", "path", "image", "filename")
_FIRST_LABELS = ("label", "labels", "wnid", "class")
# Others, without case, blanks, _ and -. One column must fit a row; the second row counts if none fits the first.
_FILES = (
    "file path image filename filepath imagepath imgpath imagefile imagename imgname img imageid imageindex imgid "
    "idcode photo photoid",
    "id name key",
)
_LABELS = (
    "label labels wnid class classes labelname labelnames labelid labelids classname classid category categories "
    "categoryid categoryname target targets tag tags attributeids finding findings findinglabels diagnosis species "
    "breed synset",
)
_CONFIDENCE = "confidence"
_SOURCE = "source"

CHEXPERT = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip
"""The 14 observations of CheXpert's tables (Irvin et al. 2019), a column each."""

_RANGE = re.compile(r"(.+)\.\.(.+)")


@dataclass(frozen=True)
class Columns:
    """The columns that are read.

    Attributes:
        file: of names.
        labels: one column whose cells hold labels; or several, each of which is a label.
        confidence: what is known of a row's label, None for nothing.
        source: who says so ("machine" has not looked), None where no column says.
        published: the data set whose published columns these are, "" for none.
    """

    file: str
    labels: tuple[str, ...]
    several: bool
    confidence: str | None = None
    source: str | None = None
    published: str = ""


def choose_columns(table: TableFile, options: TableOptions, connection: Any) -> Columns:
    """The columns of ``table`` that are meant.

    Args:
        connection: for a look at the cells, where no name of a column says that it holds labels.

    Raises:
        UserError: a named column is not there, several or none fit, or one holds no text; names those there are.
    """
    file = _named(table, options.file_column, "file_column") if options.file_column else _file(table)
    published = _published(table)
    if options.label_column is not None:
        labels = _label_columns(table, options.label_column)
    elif published == "CheXpert":
        labels = CHEXPERT
    else:
        labels = (_usual(table, _FIRST_LABELS, _LABELS, "label", "label_column", connection),)
    for column in (file, *labels):
        _refuse_type(table, column, "file_column" if column == file else "label_column")
    several = len(labels) > 1
    if several and options.confidence_column:
        raise UserError(
            f"{parameter('confidence_column')} {options.confidence_column!r} is for tables with one column of labels, "
            f"not for {len(labels)}",
            hint="leave it out",
        )
    confidence = None if several else _confidence(table, options.confidence_column, {file, *labels})
    source = None if confidence is None else next((c for c in table.columns if _plain(c) == _SOURCE), None)
    return Columns(file, labels, several, confidence, source, published)


def may_hold_labels(path: Path) -> bool:
    """Whether a table has columns that are called like those of files and of labels; a damaged one has none."""
    columns = [_plain(column) for column in column_names(path)]
    files, labels = [*_FILES[0].split(), "id"], [*_LABELS[0].split(), *map(_plain, CHEXPERT)]
    return not set(columns).isdisjoint(files) and not set(columns).isdisjoint(labels)


def _published(table: TableFile) -> str:
    columns = set(table.columns)
    if {"Path", *CHEXPERT} <= columns:
        return "CheXpert"
    if {"ImageID", "LabelName"} <= columns:
        return "Open Images"
    return "ChestX-ray14" if {"Image Index", "Finding Labels"} <= columns else ""


def _file(table: TableFile) -> str:
    return _usual(table, _FIRST_FILES, _FILES, "file", "file_column")


def _usual(
    table: TableFile,
    first: tuple[str, ...],
    usual: tuple[str, ...],
    what: str,
    option: str,
    connection: Any = None,
) -> str:
    for column in first:
        if column in table.columns:
            return column
    for names in usual:
        fitting = [column for column in table.columns if _plain(column) in names.split()]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise UserError(
                f"{table.path} has several columns that may hold {what}s: {_listed(fitting)}",
                hint=f"choose one with {parameter(option)}",
            )
    signs = _signs(table, connection) if connection is not None else ""
    raise UserError(
        f"{table.path} has no column of {what}s ({', '.join(first)}, ...); its columns, in its first line, are "
        f"{_listed(table.columns)}",
        hint=headless(table.columns) or f"choose one with {parameter(option)}{signs}",
    )


def _signs(table: TableFile, connection: Any) -> str:
    """A hint at columns of 0 and 1, each of which may be a label."""
    cells = "('0', '1', '-1', '0.0', '1.0', '-1.0', 'true', 'false', '')"
    each = ", ".join(f"bool_and(coalesce(lower(CAST({sql.name(c)} AS VARCHAR)), '') IN {cells})" for c in table.columns)
    said = sql.run(connection, f"SELECT {each} FROM {table.relation}", table.path).fetchone()
    fitting = [column for column, only in zip(table.columns, said) if only]
    if len(fitting) < 2:
        return ""
    example = parameter("label_column", f"{fitting[0]}..{fitting[-1]}")
    return f"; {len(fitting)} columns hold only 1, 0 or -1: if each of them is a label, name them, such as {example}"


def _named(table: TableFile, column: str, option: str) -> str:
    if column in table.columns:
        return column
    near = [c for c in table.columns if _plain(c) == _plain(column)] or difflib.get_close_matches(column, table.columns)
    meant = f"; is {shown(near[0])} meant?" if near else ""
    raise UserError(
        f"{table.path} has no column {shown(column)}{meant}; its columns are {_listed(table.columns)}",
        hint=f"choose one with {parameter(option)}",
    )


def _label_columns(table: TableFile, wanted: str | Sequence[str]) -> tuple[str, ...]:
    """The columns of a name, of several separated by commas, of ``FIRST..LAST``, or of a list of such."""
    if isinstance(wanted, str):
        wanted = [wanted]
    found: list[str] = []
    for text in wanted:
        parts = [text] if text in table.columns else text.split(",")
        for part in (part.strip() for part in parts):
            ends = _RANGE.fullmatch(part)
            if part in table.columns or ends is None:
                found.append(_named(table, part, "label_column"))
                continue
            first, last = (table.columns.index(_named(table, end.strip(), "label_column")) for end in ends.groups())
            if first > last:
                raise UserError(
                    f"{table.path}: {shown(ends[1])} comes after {shown(ends[2])}", hint=f"take {ends[2]}..{ends[1]}"
                )
            found.extend(table.columns[first : last + 1])
    return tuple(dict.fromkeys(found))


def _confidence(table: TableFile, wanted: str | None, taken: set[str]) -> str | None:
    if wanted is not None:
        return _named(table, wanted, "confidence_column") if wanted else None
    return next((column for column in table.columns if _plain(column) == _CONFIDENCE and column not in taken), None)


def _refuse_type(table: TableFile, column: str, option: str) -> None:
    kind = table.types.get(column)
    if kind is not None and pa.types.is_dictionary(kind):
        kind = kind.value_type
    of = kind.value_type if kind is not None and is_list(kind) and option == "label_column" else kind
    if of is None or pa.types.is_null(of):
        return
    text = pa.types.is_string(of) or pa.types.is_large_string(of) or str(of) == "string_view"
    if not (text or pa.types.is_integer(of) or pa.types.is_floating(of) or pa.types.is_boolean(of)):
        raise UserError(
            f"{table.path}: column {shown(column)} holds {shown(str(kind))[1:-1]}, neither text nor numbers",
            hint=f"choose another with {parameter(option)}; its columns are {_listed(table.columns)}",
        )


def is_list(kind: pa.DataType) -> bool:
    """Whether cells of this type are lists."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _plain(column: str) -> str:
    return re.sub(r"[\s_-]", "", column).lower()


def _listed(columns: Sequence[str]) -> str:
    shown_columns = ", ".join(shown(column) for column in columns[:20])
    return f"{shown_columns} and {len(columns) - 20} more" if len(columns) > 20 else shown_columns
