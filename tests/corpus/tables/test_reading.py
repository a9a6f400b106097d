"""Files as spreadsheets and programs write them: delimiters, encodings, quotes, and what is no table."""

from __future__ import annotations

import gc
import gzip
import tempfile
import zipfile
from pathlib import Path

import pytest

from scaleprior.corpus.duck import connect
from scaleprior.corpus.importers.tables.sql import run
from scaleprior.errors import FailureError, UserError
from tests.corpus.pictures import jpeg
from tests.corpus.tables.conftest import Table

ROWS = [["file", "label"], ["a.jpg", "café"], ["b.jpg", "x, y"], ["c.jpg", 'say "z"']]
EXPECTED = [["café"], ["x, y"], ['say "z"']]


def text(delimiter: str, end: str = "\n") -> str:
    quoted = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' if k else cell for cell in row] for k, row in enumerate(ROWS)]
    return end.join(delimiter.join(row) for row in quoted) + end


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_delimiters_line_ends_and_encodings(table: Table, delimiter: str, end: str, encoding: str) -> None:
    assert table.read(text(delimiter, end).encode(encoding)) == EXPECTED


def test_a_semicolon_does_not_make_columns_where_commas_do(table: Table) -> None:
    assert table.read("file,label\na.jpg,x;y\nb.jpg,y\n") == [["x", "y"], ["y"]]
    assert table.read("file;label\na.jpg;x,y z\nb.jpg;y\n", separator=",") == [["x", "y z"], ["y"]]


def test_excels_line_about_the_delimiter_is_no_header(table: Table) -> None:
    assert table.read(b"sep=;\r\n" + text(";", "\r\n").encode()) == EXPECTED


def test_tabs_by_suffix_and_gzip(table: Table) -> None:
    assert table.read("file\tlabel\na.jpg\tx,y\n", "labels.tsv", separator="", yes=True) == [["x,y"]]
    assert table.read(gzip.compress(text(",").encode()), "labels.csv.gz") == EXPECTED


def test_latin_1_is_refused_until_it_is_named(table: Table) -> None:
    with pytest.raises(UserError, match=r"labels.csv is not UTF-8: byte 0xe9 at place 23; .* encoding='cp1252'"):
        table.source(text(",").encode("latin-1"))
    assert table.read(text(",").encode("latin-1"), encoding="latin-1") == EXPECTED
    with pytest.raises(UserError, match="encoding is 'no-such'"):
        table.source(text(","), encoding="no-such")


def test_a_wrong_byte_far_down_is_found_at_its_place(table: Table) -> None:
    """Pieces of a megabyte: the place counts from the file's start, also when a character straddles two pieces."""
    content = b"file,label\n" + b"a.jpg,caf\xc3\xa9\n" * 200_000 + b"b.jpg,\xe9\n"
    with pytest.raises(UserError, match=rf"byte 0xe9 at place {len(content) - 2:,}"):
        table.source(content)


def test_utf_16_without_a_mark_is_pointed_out(table: Table) -> None:
    with pytest.raises(UserError, match=r"bytes of value 0.*encoding='utf-16-le'"):
        table.source(text(",").encode("utf-16-le"))
    assert table.read(text(",").encode("utf-16-le"), encoding="utf-16-le") == EXPECTED


def test_blanks_around_names_and_cells(table: Table) -> None:
    assert table.read(" file , label \n a.jpg , x \n./b.jpg,  y;z\n") == [["x"], ["y", "z"]]


def test_a_column_without_a_name_is_pandas_index(table: Table) -> None:
    assert table.read(",file,label\n0,a.jpg,x\n1,b.jpg,y\n") == [["x"], ["y"]]


def test_a_workbook_is_no_table(table: Table, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "book", "w") as book:
        book.writestr("xl/workbook.xml", "")
    with pytest.raises(UserError, match=r"labels.csv is a zip file or a workbook; unpack it, or save"):
        table.source((tmp_path / "book").read_bytes())


def test_a_damaged_line_is_one_short_message(table: Table) -> None:
    with pytest.raises(UserError, match=r"labels.csv cannot be read as a table: .*") as refused:
        table.source("file,label\n" + "a.jpg,x\n" * 5 + "b.jpg,y," + "z" * 20_000 + "\n")
    assert len(str(refused.value)) < 700
    assert "Line: 7" in str(refused.value)
    assert "Expected Number of Columns: 2 Found: 3" in str(refused.value)  # what is wrong, not the line alone
    assert str(refused.value).count("\n") == 0


def test_a_quote_that_does_not_end_is_said_to_be_one(table: Table) -> None:
    with pytest.raises(UserError, match=r"Line: 2; .*; Value with unterminated quote found"):
        table.source('file,label\na.jpg,"x\nb.jpg,y\n')


def test_the_scratch_folder_goes_with_the_table(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scaleprior.corpus.importers.tables import LabelTable

    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    opened = LabelTable(table.write(text(",")))
    assert sorted(row.file for row in opened.rows()) == ["a.jpg", "b.jpg", "c.jpg"]
    assert len(list((tmp_path / "scratch").iterdir())) == 1
    del opened
    gc.collect()
    assert not list((tmp_path / "scratch").iterdir())


def test_a_full_disk_is_no_fault_of_the_table(table: Table) -> None:
    path = table.write(text(","))
    with (
        connect(table.src / "spill") as connection,
        pytest.raises(FailureError, match=r"reading .*labels.csv failed: "),
    ):
        run(connection, "COPY (SELECT range FROM range(100000)) TO '/dev/full' (FORMAT csv)", path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.jpg,x\nb.jpg,y\n", "no column of files .*the header is missing: write one above it, such as file,label"),
        ("a.jpg\tx\t0\t0\nb.jpg\ty\t1\t1\n", "names the column '0' twice .*the header is missing"),
        ("a.jpg 1\nb.jpg 2\n", "the header is missing"),
        ("1 1\n2 1\n", "blanks separate no columns: write it with commas"),
        ("", "is an empty table"),
        ("\n \n", "is an empty table"),
        ("file,label\n", "has no rows below its header"),
        ("File,Label,label\na.jpg,x,y\n", "columns 'Label' and 'label', which differ only in case"),
        ('{"images": [{"id": 0, "id": 1}]}', "is JSON, and tables of labels are CSV or Parquet"),
        ('{"file_name": "a.jpg"}\n{"file_name": "b.jpg"}\n', "is JSON"),
        (jpeg(1), "is an image, and no table of labels"),
        (b"SQLite format 3\0\x10\0\1\1\0@  \0\0\0\x0c", "is no text: it holds bytes of value 0"),
        (b"MATLAB 5.0" + bytes(300), "is no text"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 12\n", "is a Git LFS pointer.*git lfs pull"),
    ],
)
def test_what_lacks_a_header_or_is_no_table_is_called_by_its_name(
    table: Table, content: str | bytes, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        table.source(content)


def test_an_index_of_pandas_that_was_saved_twice(table: Table) -> None:
    assert table.read(",Unnamed: 0,file,label\n0,0,a.jpg,x\n1,1,b.jpg,y\n") == [["x"], ["y"]]


def test_rows_without_a_file_are_refused_or_left_out_and_counted(table: Table) -> None:
    content = "file,label\na.jpg,x\n,y\n ,z\nb.jpg,y\n"
    with pytest.raises(UserError, match=r"names no file in 2 rows of column 'file'; .* with skip_missing=True"):
        table.source(content)
    source = table.source(content, skip_missing=True)
    assert sorted((row.key, row.labels) for row in source.rows()) == [("a.jpg", ("x",)), ("b.jpg", ("y",))]
    assert source.notes.warnings["rows that name no file (left out)"][0] == 2


def test_a_column_of_splits_is_asked_about(table: Table) -> None:
    """What is held out would be learned from, as with folders called train and val."""
    content = "file,label,split\na.jpg,x,train\nb.jpg,y,train\nc.jpg,x,val\n"
    with pytest.raises(UserError, match=r"column 'split' says 'train', 'val'; the images of all would be taken"):
        table.source(content)
    assert table.read(content, split="train") == [["x"], ["y"]]
    assert table.read(content, yes=True) == [["x"], ["y"], ["x"]]
    assert table.read(content.replace("val", "train")) == [["x"], ["y"], ["x"]]
    assert table.read(content.replace("train", "even").replace("val", "odd")) == [["x"], ["y"], ["x"]]
