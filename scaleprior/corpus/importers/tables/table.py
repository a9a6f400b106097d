"""A table of labels as its images see it: each image once, with the labels that are present and those that are absent.

Three steps, each a file in a scratch folder that goes with the table: the columns that count, as text; what their cells
mean, told from all of them; and the rows of each image, joined. DuckDB does each a piece at a time, so the memory does
not grow with the table.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from scaleprior.corpus.duck import connect
from scaleprior.corpus.importers.doubts import Doubt
from scaleprior.corpus.importers.splits import is_split, some
from scaleprior.corpus.importers.tables import sql
from scaleprior.corpus.importers.tables.cells import Split, detect_split
from scaleprior.corpus.importers.tables.columns import Columns, choose_columns, is_list
from scaleprior.corpus.importers.tables.missing import BLANK, Missing, find_missing
from scaleprior.corpus.importers.tables.options import TableOptions
from scaleprior.corpus.importers.tables.reading import TableFile, open_table
from scaleprior.corpus.importers.tables.signs import Signs, judge_confidence, judge_label_columns
from scaleprior.corpus.notes import Notes
from scaleprior.errors import UserError
from scaleprior.wording import parameter, shown

__all__ = ["LabelTable", "TableRow"]

_BATCH_ROWS = 10_000
_FEW_SPLITS = 20
_JOINED_AT_ONCE = 5_000_000  # rows; a list of labels an image is what does not spill


class TableRow(NamedTuple):
    """An image of a table: its name there, the labels that are present, and those that are verified to be absent."""

    file: str
    labels: tuple[str, ...]
    absent: tuple[str, ...]


class LabelTable:
    """The labels of image files, from CSV or Parquet.

    Attributes:
        path: the table.
        options: what a person said about it.
        columns: those that are read.
        doubts: what may not be meant as it is read.
        sql: a query of ``file`` (text), ``labels`` and ``absent`` (lists of text), each file once, for any connection.

    Args:
        path: ``.parquet``, or text with a header line.
        options: None: the table speaks for itself.

    Raises:
        UserError: missing file or column, no row of the split, cells that mean nothing.
    """

    def __init__(self, path: str | Path, options: TableOptions | None = None) -> None:
        self.path: Path = Path(path)
        self.options: TableOptions = options or TableOptions()
        scratch = Path(tempfile.mkdtemp(prefix="scaleprior-"))
        weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)
        self.doubts: tuple[Doubt, ...] = ()
        self._counts: tuple[tuple[str, int, str], ...] = ()
        table = open_table(self.path, scratch, self.options.encoding)
        self._connection = connection = connect(scratch / "spill")
        self.columns: Columns = choose_columns(table, self.options, connection)
        rows = self._stage(connection, table, scratch / "staged.parquet")
        self.doubts += self._splits(connection, table)
        labels, absent = self._judge(connection, table)
        self._join(connection, rows, labels, absent, scratch / "joined")
        (scratch / "staged.parquet").unlink()
        joined = sql.text(str(scratch / "joined" / "*.parquet"))
        self.sql: str = f"SELECT file, labels, absent FROM read_parquet({joined})"

    def count(self) -> int:
        """Number of images."""
        return self._images

    def distinct_labels(self) -> list[str]:
        """All labels that occur, present or absent, sorted."""
        both = f"SELECT unnest(labels) AS l FROM ({self.sql}) UNION SELECT unnest(absent) FROM ({self.sql})"
        found = [row[0] for row in self._query(both).fetchall()]
        if not found:
            named = ", ".join(map(shown, self.columns.labels[:5]))
            raise UserError(f"{self.path} holds no labels in {named}", hint="check the label column")
        return sorted(found)

    def first_file(self) -> str:
        """The first name in alphabetical order, for messages."""
        return self._query(f"SELECT min(file) FROM ({self.sql})").fetchone()[0] or ""

    def files(self) -> Iterator[str]:
        """The name of each image once, in no order."""
        cursor = self._query(f"SELECT file FROM ({self.sql})")
        while batch := cursor.fetchmany(_BATCH_ROWS):
            yield from (row[0] for row in batch)

    def rows(self) -> Iterator[TableRow]:
        """Each image once, in no order."""
        cursor = self._query(self.sql)
        while batch := cursor.fetchmany(_BATCH_ROWS):
            for file, labels, absent in batch:
                yield TableRow(file, tuple(labels), tuple(absent))

    def _query(self, query: str) -> Any:
        """A cursor of its own: streams of one table may be read side by side."""
        return sql.run(self._connection.cursor(), query, self.path)

    def note(self, notes: Notes) -> None:
        """Count what a reader of the corpus would want to know of."""
        for kind, count, example in self._counts:
            notes.warn(kind, example, count=count)

    def count_also(self, kind: str, count: int, example: str) -> None:
        """Something that was found about the table from outside, for :meth:`note`."""
        self._counts += ((kind, count, example),)

    def _stage(self, connection: Any, table: TableFile, staged: Path) -> int:
        """Write the columns that count, as trimmed text; returns the number of rows."""
        columns, options = self.columns, self.options
        file = f"replace({_text_of(columns.file, table)}, chr(0), '')"
        fields = [f"regexp_replace({file}, '^(\\./)+', '') AS file"]
        if columns.several:
            fields += [f"{_text_of(column, table)} AS label_{k}" for k, column in enumerate(columns.labels)]
        else:
            fields.append(f"{_text_of(columns.labels[0], table)} AS cell")
        for column, alias in ((columns.confidence, "confidence"), (columns.source, "source")):
            if column is not None:
                fields.append(f"{_text_of(column, table)} AS {alias}")
        query = f"SELECT {', '.join(fields)} FROM {table.relation}"
        if options.split is not None:
            if options.split_column not in table.columns:
                raise UserError(
                    f"{self.path} has no column {options.split_column!r}; its columns are "
                    f"{', '.join(map(repr, table.columns[:20]))}",
                    hint=f"choose one with {parameter('split_column')}",
                )
            query += f" WHERE {_text_of(options.split_column, table)} = {sql.text(options.split)}"
        sql.run(connection, f"COPY ({query}) TO {sql.text(str(staged))} (FORMAT parquet)", self.path)
        sql.run(connection, f"CREATE VIEW staged AS FROM read_parquet({sql.text(str(staged))})", self.path)
        rows = pq.read_metadata(staged).num_rows
        if not rows and options.split is not None:
            distinct = f"SELECT DISTINCT {_text_of(options.split_column, table)} AS v FROM {table.relation} LIMIT 1000"
            known = sorted(row[0] for row in sql.run(connection, distinct, self.path).fetchall())
            raise UserError(
                f"{self.path} has no row with {options.split_column} {options.split!r}",
                hint=f"values there are {', '.join(map(shown, known[:10]))}",
            )
        if not rows:
            raise UserError(f"{self.path} has no rows below its header", hint="give a table with a row for each image")
        return rows - self._leave_out_unnamed(connection, staged)

    def _splits(self, connection: Any, table: TableFile) -> tuple[Doubt, ...]:
        """The doubt that all splits are meant: what is held out would be learned from."""
        column = self.options.split_column
        if self.options.split is not None or column not in table.columns:
            return ()
        distinct = f"SELECT DISTINCT {_text_of(column, table)} AS v FROM {table.relation} LIMIT {_FEW_SPLITS}"
        found = sorted(row[0] for row in sql.run(connection, distinct, self.path).fetchall())
        if len(found) < 2 or not all(map(is_split, found)):
            return ()
        what = f"{self.path.name}: column {shown(column)} says {some(found)}; the images of all would be taken"
        return (Doubt(what, f"take one of them with {parameter('split', found[0])}"),)

    def _leave_out_unnamed(self, connection: Any, staged: Path) -> int:
        """Leave out the rows that name no file, as rows whose image is missing; returns their number."""
        count = connection.execute("SELECT count(*) FROM staged WHERE file = ''").fetchone()[0]
        if not count:
            return 0
        if not self.options.skip_missing:
            raise UserError(
                f"{self.path} names no file in {'a row' if count == 1 else f'{count:,} rows'} of column "
                f"{shown(self.columns.file)}",
                hint=f"repair the table, or leave these rows out with {parameter('skip_missing', True)}",
            )
        rest = f"FROM read_parquet({sql.text(str(staged))}) WHERE file <> ''"
        connection.execute(f"CREATE OR REPLACE VIEW staged AS {rest}")
        self.count_also("rows that name no file (left out)", count, "")
        return count

    def _judge(self, connection: Any, table: TableFile) -> tuple[str, str]:
        """SQL aggregates over an image's staged rows: the labels that are present, and those that are absent."""
        columns, options = self.columns, self.options
        if columns.several:
            missing = Missing((*BLANK, *options.missing_words), numbers=False)
            signs = judge_label_columns(connection, columns, options, missing.sql, self.path)
            self._said(signs)
            return f"flatten(list({_named(signs, 1)}))", f"flatten(list({_named(signs, -1)}))"
        label = columns.labels[0]
        said = f"{self.path.name}: column {shown(label)}"
        if label in table.types and is_list(table.types[label]):
            parts, single = "cell", False
        else:
            split, doubts = self._split(connection, label, said)
            self.doubts += doubts
            parts, single = split.sql("cell"), split == Split()
        distinct = f"SELECT DISTINCT trim(part) AS part FROM (SELECT unnest({parts}) AS part FROM staged)"
        given = None if options.missing is None else options.missing_words
        missing = find_missing(connection, distinct, said, given)
        self.doubts += missing.doubts
        signs = judge_confidence(connection, columns, options, self.path)
        self._said(signs)
        present, negative = (f"({signs.of['']}) = {sign}" for sign in (1, -1))
        if single:  # twice as fast as lists of lists
            label, there = missing.label("cell"), f"cell NOT IN ({missing.sql})"
            one = f"list({label}) FILTER ({there} AND "
            return f"{one}{present})", f"{one}{negative})"
        several = f"flatten(list({missing.clean(parts)}) FILTER ("
        return f"{several}{present}))", f"{several}{negative}))"

    def _split(self, connection: Any, label: str, said: str) -> tuple[Split, tuple[Doubt, ...]]:
        if self.options.separator is not None:
            return Split(self.options.separator), ()
        if self.columns.published == "ChestX-ray14" and label == "Finding Labels":
            return Split("|"), ()
        words = ", ".join(map(sql.text, BLANK))
        return detect_split(connection, f"SELECT DISTINCT cell FROM staged WHERE cell NOT IN ({words})", said)

    def _said(self, signs: Signs) -> None:
        self._counts += signs.counts
        self.doubts += signs.doubts

    def _join(self, connection: Any, rows: int, labels: str, absent: str, joined: Path) -> None:
        """Write one row for each file into a folder; as many files at once as their lists fit into memory."""
        joined.mkdir()
        pieces = max(1, -(-rows // _JOINED_AT_ONCE))
        for piece in range(pieces):
            query = (
                f"SELECT file, coalesce({labels}, []) AS labels, coalesce({absent}, []) AS absent, count(*) AS rows "
                f"FROM staged WHERE hash(file) % {pieces} = {piece} GROUP BY file"
            )
            target = sql.text(str(joined / f"{piece}.parquet"))
            sql.run(connection, f"COPY ({query}) TO {target} (FORMAT parquet)", self.path)
        self._images = sum(pq.read_metadata(file).num_rows for file in joined.iterdir())
        if rows > self._images:
            example = f"SELECT min(file) FROM read_parquet({sql.text(str(joined / '*.parquet'))}) WHERE rows > 1"
            file = sql.run(connection, example, self.path).fetchone()[0]
            self.count_also("rows of an image that has other rows (joined)", rows - self._images, file)


def _named(signs: Signs, sign: int) -> str:
    """SQL of the labels, of columns of their own, whose sign it is."""
    each = ", ".join(f"CASE WHEN ({of}) = {sign} THEN {sql.text(label)} END" for label, of in signs.of.items())
    return f"[x FOR x IN [{each}] IF x IS NOT NULL]"


def _text_of(column: str, table: TableFile) -> str:
    """SQL of a column as trimmed text, or as a list of such; never NULL."""
    value, kind = sql.name(column), table.types.get(column)
    if kind is not None and is_list(kind):
        return f"coalesce([{_scalar('x', kind.value_type)} FOR x IN {value} IF x IS NOT NULL], [])"
    return f"coalesce({_scalar(value, kind)}, '')"


def _scalar(value: str, kind: pa.DataType | None) -> str:
    """Text of a value. Whole floats are numbers without a point: pandas makes floats of ids where some are missing."""
    if kind is not None and pa.types.is_floating(kind):
        whole = f"isfinite({value}) AND {value} = trunc({value}) AND abs({value}) < 1e15"
        return f"CASE WHEN {whole} THEN CAST(CAST({value} AS BIGINT) AS VARCHAR) ELSE CAST({value} AS VARCHAR) END"
    if kind is not None and pa.types.is_boolean(kind):
        return f"CASE {value} WHEN true THEN 'True' WHEN false THEN 'False' END"
    return f"trim(CAST({value} AS VARCHAR))"
