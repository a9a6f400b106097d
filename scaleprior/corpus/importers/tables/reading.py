"""Opening a table: what kind of file it is, its encoding, what separates its columns, and their names.

Reading itself is DuckDB's. It takes UTF-8, so a file in another encoding, or one that is compressed, is first copied
into the scratch folder as UTF-8, a piece at a time.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa

from scaleprior.corpus.importers.tables import sql
from scaleprior.corpus.magic import HEAD, IMAGE_LIKE, head_of, image_suffix, refuse_pointer
from scaleprior.corpus.parquet_files import read_footer
from scaleprior.errors import UserError
from scaleprior.parsing import open_regular
from scaleprior.wording import bytes_in_words, one_line, parameter, shown

__all__ = ["TableFile", "column_names", "headless", "open_table"]

_HEAD = 1 << 18  # bytes in which the header line ends, and a few more
_PIECE = 1 << 20
_LINES = 20
_UNPACKED = 64 << 20, 200  # bytes that any gzip may have, and a byte of it; tables have 30 at most
_DELIMITERS = (",", "\t", ";", "|")  # the first of those that fit equally well
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
         (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip


@dataclass(frozen=True)
class TableFile:
    """A table that can be read.

    Attributes:
        path: where it is.
        columns: names, in order.
        types: Arrow type of each column of a Parquet file, by name; empty for text, where all are strings.
        relation: SQL that DuckDB reads it by.
    """

    path: Path
    columns: list[str]
    types: dict[str, pa.DataType]
    relation: str


def open_table(path: Path, scratch: Path, encoding: str | None = None) -> TableFile:
    """Open CSV (also with tabs or semicolons, also gzipped) or Parquet.

    Args:
        scratch: folder for a copy that DuckDB can read, where that is needed.
        encoding: of text, as Python calls it; by default UTF-8, or what a byte order mark says.

    Raises:
        UserError: missing, another kind of file, another encoding, a header that names a column twice.
    """
    try:
        with open_regular(path, what="table of labels") as file:
            head = file.read(_HEAD)
        refuse_pointer(path)
        if head.startswith(b"PAR1") or path.suffix.lower() in (".parquet", ".pq"):
            schema = _read_schema(path)
            types = {field.name: field.type for field in schema}
            return TableFile(path, _checked(path, schema.names), types, f"read_parquet({sql.text(str(path))})")
        if head.startswith(b"PK\x03\x04"):
            raise UserError(f"{path} is a zip file or a workbook", hint="unpack it, or save its sheet as CSV (UTF-8)")
        if head.lstrip()[:1] in (b"{", b"["):
            raise UserError(
                f"{path} is JSON, and tables of labels are CSV or Parquet",
                hint="write its images and labels as a CSV with the columns file and label",
            )
        return _text_table(path, head, scratch, encoding)
    except UserError:
        raise
    except (OSError, EOFError, ValueError, csv.Error, zlib.error, NotImplementedError) as e:  # some of them Arrow's
        raise UserError(f"{path} cannot be read as a table: {one_line(e)}", hint="give CSV or Parquet") from e


def _read_schema(path: Path) -> pa.Schema:
    footer = read_footer(path, said=f"{path} cannot be read as a table", hint="give CSV or Parquet")
    return footer.schema.to_arrow_schema()


def column_names(path: Path) -> list[str]:
    """The columns that a table seems to have, by its first lines alone; none where these say nothing."""
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return _read_schema(path).names
        head = head_of(path, _HEAD)
        if head.startswith(b"\x1f\x8b"):
            with gzip.open(path) as file:
                head = file.read(_HEAD)
        lines = head.decode(_encoding(path, head), errors="replace").splitlines()[:_LINES]
        return next(csv.reader(lines, delimiter=_delimiter(lines, path)), [])
    except (UserError, OSError, EOFError, ValueError, csv.Error, zlib.error):
        return []


def _text_table(path: Path, head: bytes, scratch: Path, encoding: str | None) -> TableFile:
    gzipped = head.startswith(b"\x1f\x8b")
    if gzipped:
        with gzip.open(path) as file:
            head = file.read(_HEAD)
    encoding = encoding or _encoding(path, head)
    readable = path
    if gzipped or encoding != "utf-8":
        readable = scratch / "table.csv"
    lines = _copied(path, readable, encoding, gzipped=gzipped)
    if not any(map(str.strip, lines)):
        raise UserError(f"{path} is an empty table", hint="give one with a header line, such as file,label")
    skip = 1 if lines and lines[0].lower().startswith("sep=") else 0  # Excel's way to say the delimiter
    delimiter = (lines[0][4:5] or ",") if skip else _delimiter(lines, path)
    header = next(csv.reader(lines[skip:], delimiter=delimiter), [])
    columns = _checked(path, _named([column.strip() for column in header]))
    types = ", ".join(f"{sql.text(column)}: 'VARCHAR'" for column in columns)
    options = (
        f"header = true, auto_detect = false, skip = {skip}, delim = {sql.text(delimiter)}, quote = '\"', escape = '\"'"
    )
    return TableFile(path, columns, {}, f"read_csv({sql.text(str(readable))}, columns = {{{types}}}, {options})")


def _encoding(path: Path, head: bytes) -> str:
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            return encoding
    if image_suffix(head[:HEAD]):
        raise UserError(f"{path} is an image, and no table of labels", hint="give a table, or a folder of images")
    even, odd = head[:1000:2].count(0), head[1:1000:2].count(0)
    if even + odd and (4 * max(even, odd) < len(head[:1000]) or 10 * min(even, odd) > max(even, odd)):
        # UTF-16 has most of them at odd or at even places
        raise UserError(
            f"{path} is no text: it holds bytes of value 0",
            hint="save it as CSV or Parquet with columns of files and of labels",
        )
    if even + odd:
        guess = "utf-16-le" if head[1:2] == b"\0" else "utf-16-be"
        raise UserError(
            f"{path} holds bytes of value 0, as no text in UTF-8 does",
            hint=f"if it is a table, say its encoding, such as {parameter('encoding', guess)}",
        )
    return "utf-8"


def _copied(path: Path, readable: Path, encoding: str, *, gzipped: bool) -> list[str]:
    """The first lines of a text file, all of which is checked, and copied as UTF-8 unless ``readable`` is the file."""
    try:
        decoder = codecs.getincrementaldecoder(encoding)()
    except LookupError as e:
        raise UserError(f"{parameter('encoding')} is {encoding!r}", hint="name one of Python's, such as cp1252") from e
    first, done = "", 0
    size = path.stat().st_size
    most = _UNPACKED[0] + _UNPACKED[1] * size
    with (
        gzip.open(path) if gzipped else open(path, "rb") as source,
        open(readable, "rb" if readable == path else "wb") as out,
    ):
        for piece in _pieces(source):
            if gzipped and done > most:
                raise UserError(
                    f"{path} unpacks to more than {bytes_in_words(most)}, from {size:,} bytes", hint="check the file"
                )
            try:
                decoded = decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as e:
                at = done + len(piece) - len(e.object) + e.start  # what was left of the piece before is in it, too
                raise UserError(
                    f"{path} is not {encoding.upper()}: byte {e.object[e.start]:#04x} at place {at:,}",
                    hint=f"save it as UTF-8, or say its encoding, such as {parameter('encoding', 'cp1252')}",
                ) from e
            done += len(piece)
            if len(first) < _HEAD:
                first += decoded[:_HEAD]
            if readable != path:
                out.write(decoded.encode("utf-8"))
    complete = first if done <= _HEAD else first[: first.rfind("\n") + 1] or first
    return complete.splitlines()[:_LINES]


def _pieces(source: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    """The bytes of a file, and an empty piece at its end."""
    while piece := source.read(_PIECE):
        yield piece
    yield b""


def _delimiter(lines: list[str], path: Path) -> str:
    """Tabs where the file's name says so, else what gives most lines as many fields as the header."""
    if path.suffix.lower() in (".tsv", ".tab"):
        return "\t"
    best, most = ",", (0.0, 0)
    for delimiter in _DELIMITERS:
        rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
        width = len(rows[0]) if rows else 0
        if width > 1:
            fit = sum(len(row) == width for row in rows) / len(rows), width
            best, most = (delimiter, fit) if fit > most else (best, most)
    return best


def headless(columns: Sequence[str]) -> str:
    """What to do about a header that looks like a row, or like no columns at all; "" for one that looks like one."""
    if any(os.path.splitext(column.split(" ")[0])[1].lower() in IMAGE_LIKE for column in columns):
        return "the first line names an image, so the header is missing: write one above it, such as file,label"
    if len(columns) == 1 and " " in columns[0]:
        return "blanks separate no columns: write it with commas and a header line, such as file,label"
    return ""


def _named(header: Sequence[str]) -> list[str]:
    """Columns without a name get one as pandas gives it, unless another has it: an index that was saved twice."""
    names: list[str] = []
    for k, column in enumerate(header):
        name = column or f"Unnamed: {k}"
        while not column and (name in header or name in names):
            name += ".1"
        names.append(name)
    return names


def _checked(path: Path, columns: list[str]) -> list[str]:
    """The columns, unless two are called alike; DuckDB does not tell capitals from small letters."""
    first: dict[str, str] = {}
    for column in columns:
        other = first.get(column.lower())
        first[column.lower()] = column
        if other is not None:
            twice = f"names the column {shown(column)} twice"
            alike = f"names columns {shown(other)} and {shown(column)}, which differ only in case,"
            raise UserError(
                f"{path} {twice if other == column else alike} in its header",
                hint=headless(columns) or "give each column a name of its own",
            )
    return columns
