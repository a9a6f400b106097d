"""Ids that look like floats, columns of any type, and words for nothing."""

from __future__ import annotations

import pyarrow as pa
import pytest

from scaleprior.errors import UserError
from scaleprior.wording import in_flags
from tests.corpus.tables.conftest import Table


def csv(*cells: str, header: str = "file,label") -> str:
    return "\n".join([header, *(f"{name}.jpg,{cell}" for name, cell in zip("abcd", cells)), ""])


@pytest.mark.parametrize("gap", ["", "nan", "NaN", "None", "null", "NA", "<NA>", "N/A"])
def test_a_column_of_ids_with_gaps(table: Table, gap: str) -> None:
    """pandas makes floats of ids where some are missing: they were the classes 0.0, 1.0 and nan."""
    assert table.read(csv("0.0", "1.0", gap, "10.0")) == [["0"], ["1"], [], ["10"]]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (("007", "7", "010"), [["007"], ["7"], ["010"]]),  # leading zeros are part of a code
        (("1.0", "1.5", "2.0"), [["1.0"], ["1.5"], ["2.0"]]),  # versions, not ids
        (("1.0", "cat", "2.0"), [["1.0"], ["cat"], ["2.0"]]),
        (("-1.0", "0.0", ""), [["-1"], ["0"], []]),
        (("2.0;3.0", "3.0", "nan"), [["2", "3"], ["3"], []]),
    ],
)
def test_only_columns_of_whole_numbers_are_ids(table: Table, cells: tuple[str, ...], expected: list) -> None:
    assert table.read(csv(*cells)) == expected


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([0.0, 1.0, None, float("nan")]), [["0"], ["1"], [], []]),
        (pa.array([0.5, 1.0, None, 2.0]), [["0.5"], ["1"], [], ["2"]]),
        (pa.array([3, None, 5, 10**15], pa.int64()), [["3"], [], ["5"], [str(10**15)]]),
        (pa.array([7, 8, 9, 7], pa.uint8()), [["7"], ["8"], ["9"], ["7"]]),
        (pa.array([True, False, None, True]), [["True"], ["False"], [], ["True"]]),
        (pa.array(["x", None, "y", "x"]).dictionary_encode(), [["x"], [], ["y"], ["x"]]),
        (pa.array([["x", "y"], [], None, ["y", None]]), [["x", "y"], [], [], ["y"]]),
        (pa.array([[1, 2], [], None, [2]], pa.list_(pa.int32())), [["1", "2"], [], [], ["2"]]),
        (pa.array([[1.0, 2.0], [], None, [2.0]], pa.large_list(pa.float32())), [["1", "2"], [], [], ["2"]]),
        (pa.array([" x ", "y", "z", "x"], pa.large_string()), [["x"], ["y"], ["z"], ["x"]]),
    ],
)  # fmt: skip
def test_parquet_columns_of_any_type(table: Table, column: pa.Array, expected: list) -> None:
    rows = pa.table({"file": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"], "label": column})
    assert table.read(rows, "labels.parquet") == expected


@pytest.mark.parametrize("word", ["NA", "None", "null"])
def test_a_word_for_nothing_among_names_is_asked_about(table: Table, word: str) -> None:
    text = csv("DE", word, "US", "nan")
    with pytest.raises(UserError, match=rf"'{word}' is a label like any other as it stands") as asked:
        table.source(text)
    assert f"--missing '{word}'" in in_flags(asked.value)
    assert "--missing ''" in in_flags(asked.value)
    assert table.read(text, missing=word) == [["DE"], [], ["US"], []]
    assert table.read(text, missing="") == table.read(text, yes=True) == [["DE"], [word], ["US"], []]


def test_other_words_can_be_said_to_be_missing(table: Table) -> None:
    assert table.read(csv("x", "unknown;y", "unlabelled"), missing=["unknown", "unlabelled"]) == [["x"], ["y"], []]


def test_bytes_are_no_column_and_not_printed(table: Table) -> None:
    rows = pa.table({"image": [b"\xff\xd8" * 9000] * 4, "label": [0, 1, 2, 3]})
    with pytest.raises(UserError, match=r"column 'image' holds binary, neither text nor numbers") as refused:
        table.source(rows, "labels.parquet")
    assert len(str(refused.value)) < 400
