"""Tables of (file, labels) in CSV or Parquet, read in batches by DuckDB, and the importer for plain files."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from scaleprior.corpus.importers.source import Source
from scaleprior.corpus.index import ImageRow
from scaleprior.corpus.label_space import LabelSpace
from scaleprior.errors import UserError
from scaleprior.wording import parameter

__all__ = ["LabelTable", "file_source"]

_FILE_COLUMNS = ("file", "path", "image", "filename")
_LABEL_COLUMNS = ("label", "labels", "wnid", "class")
_SEPARATOR = ";"
_BATCH_ROWS = 10_000


class LabelTable:
    """The labels of image files. Nothing is read before it is asked for, and then a batch at a time.

    Args:
        path: ``.parquet``, or CSV with a header line.
        file_column: column of names; None picks the first present of file, path, image, filename.
        label_column: column of labels; None picks the first present of label, labels, wnid, class.
        split: keep rows whose ``split_column`` equals it; None keeps all.

    Raises:
        UserError: missing file, missing column (names those there are), or no row of that split.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        file_column: str | None = None,
        label_column: str | None = None,
        split: str | None = None,
        split_column: str = "split",
    ) -> None:
        self.path: Path = Path(path)
        if not self.path.is_file():
            raise UserError(f"table of labels not found: {path}", hint="check the path")
        self.columns: list[str] = self._column_names()
        file_column = self._pick(file_column, _FILE_COLUMNS, "file", "file_column")
        label_column = self._pick(label_column, _LABEL_COLUMNS, "label", "label_column")
        self.sql: str = self._query(file_column, label_column, split, split_column)
        if split is not None and self.count() == 0:
            known = [row[0] for row in self._fetch(f"SELECT DISTINCT {_name(split_column)} FROM {self._reader()}")]
            raise UserError(
                f"{self.path} has no row with {split_column} {split!r}",
                hint=f"values there are {', '.join(map(repr, sorted(map(str, known))[:10]))}",
            )

    def count(self) -> int:
        """Number of rows."""
        return int(self._fetch(f"SELECT count(*) FROM ({self.sql})")[0][0])

    def distinct_labels(self) -> list[str]:
        """All labels that occur, sorted."""
        found = [row[0] for row in self._fetch(f"SELECT DISTINCT unnest(labels) FROM ({self.sql})")]
        if not found:
            raise UserError(f"{self.path} holds no labels", hint="check the label column")
        return sorted(found)

    def rows(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """(file, labels) of each row."""
        with _connect() as connection:
            cursor = self._execute(connection, self.sql)
            while batch := cursor.fetchmany(_BATCH_ROWS):
                for file, labels in batch:
                    yield file, tuple(labels)

    def _execute(self, connection: Any, sql: str) -> Any:
        try:
            return connection.execute(sql)
        except duckdb.Error as e:
            reason = str(e).splitlines()[0]
            raise UserError(f"{self.path} cannot be read as a table: {reason}", hint="repair the file") from e

    def _fetch(self, sql: str) -> list[tuple[Any, ...]]:
        with _connect() as connection:
            return self._execute(connection, sql).fetchall()

    def _column_names(self) -> list[str]:
        try:
            if self.path.suffix.lower() == ".parquet":
                return pq.read_schema(self.path).names
            with open(self.path, newline="", encoding="utf-8-sig") as file:
                names = next(csv.reader(file), [])
        except (OSError, ValueError, csv.Error) as e:
            raise UserError(f"{self.path} cannot be read as a table: {e}", hint="give CSV or Parquet") from e
        if len(set(names)) < len(names):
            raise UserError(f"{self.path} repeats a column in its header {names}", hint="name each column once")
        return names

    def _pick(self, wanted: str | None, usual: tuple[str, ...], what: str, option: str) -> str:
        for name in [wanted] if wanted is not None else usual:
            if name in self.columns:
                return name
        asked = repr(wanted) if wanted is not None else f"of {what}s ({', '.join(usual)})"
        raise UserError(
            f"{self.path} has no column {asked}; its columns are {', '.join(map(repr, self.columns))}",
            hint=f"choose one with {parameter(option)}",
        )

    def _reader(self) -> str:
        if self.path.suffix.lower() == ".parquet":
            return f"read_parquet({_text(str(self.path))})"
        columns = ", ".join(f"{_text(name)}: 'VARCHAR'" for name in self.columns)
        options = "header = true, auto_detect = false, delim = ',', quote = '\"', escape = '\"'"
        return f"read_csv({_text(str(self.path))}, columns = {{{columns}}}, {options})"

    def _query(self, file: str, label: str, split: str | None, split_column: str) -> str:
        is_list = False
        if self.path.suffix.lower() == ".parquet":
            kind = str(pq.read_schema(self.path).field(label).type)
            is_list = kind.startswith(("list", "large_list"))
        value = f"CAST({_name(label)} AS VARCHAR{'[]' if is_list else ''})"
        split_up = value if is_list else f"string_split({value}, {_text(_SEPARATOR)})"
        labels = f"[trim(x) FOR x IN coalesce({split_up}, []) IF trim(x) <> '']"
        cleaned = f"regexp_replace(CAST({_name(file)} AS VARCHAR), '^\\./', '')"
        sql = f"SELECT coalesce({cleaned}, '') AS file, {labels} AS labels FROM {self._reader()}"
        if split is None:
            return sql
        self._pick(split_column, (), "split", "split_column")
        return f"{sql} WHERE CAST({_name(split_column)} AS VARCHAR) = {_text(split)}"


def file_source(root: Path, table: LabelTable, label_space: LabelSpace) -> Source:
    """Plain image files below ``root`` with the labels of a table.

    Raises (while streaming):
        UserError: a row's file is missing, or its path is absolute or leaves the root.
    """

    def rows() -> Iterator[ImageRow]:
        for file, labels in table.rows():
            if file.startswith("/") or not file:
                raise UserError(f"{table.path}: path {file!r} is not relative", hint=f"make paths relative to {root}")
            try:
                size = os.stat(root / file).st_size
            except OSError as e:
                raise UserError(
                    f"{table.path} names image {file!r}, which is not in {root}", hint="add it or remove the row"
                ) from e
            yield ImageRow(file, labels, "", file, 0, size)

    return Source("files", root, label_space, rows, table.count(), {"path": str(root), "labels": str(table.path)})


def _connect(path: str = ":memory:", **settings: str) -> Any:
    """A connection that reports no progress of its own and spills only where it is told to."""
    return duckdb.connect(path, config={"memory_limit": "1GB", "temp_directory": "", **settings})


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
