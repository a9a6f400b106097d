"""Results files that no program wrote: bounded work, and one line that names file, line and column."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from scaleprior.errors import UserError
from scaleprior.laws import fit_law, read_table

HEAD = "arch,images,seed,ap\n"
ROWS = "".join(f"R-50,{images},0,{ap}\n" for images, ap in ((1000, 20), (4000, 25), (16000, 29)))


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_table(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 2000
    assert str(path) in message
    return message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + "R-50,1," + "x" * 200_000 + ",3\n", "line 2: cannot be read: field larger than field limit"),
        (HEAD + "R-50,1,\0,3\n", "null character at byte 27"),
        (HEAD + "R-50,1e400,0,3\n", "line 2, column 'images': '1e400' is not a number"),
        (HEAD + "R-50,1,0," + "9" * 5000 + "\n", "line 2, column 'ap': '999"),
        (HEAD + "R-50," + "x" * 100_000 + ",0,3\n", "(100,000 characters) is not a number"),
        (HEAD + "R-50,-1e308,0,3\n", "-1e+308 images"),
        ("images,ap" + ",c" * 50_000 + "\n1,2\n", "50000 columns are called 'c'"),
        ("images," + ",".join(f"c{n}" for n in range(50_000)) + "\n1,2\n", "no column 'ap'; it has images, c0, "),
        ("images,ap," + ",".join(f"c{n}" for n in range(2000)) + "\n" + "1,2\n" * 2000, "2,000 rows for 2,002 columns"),
        ("x" * 130_000 + ",ap\n1,2\n", "no column 'images'; it has 'xxx"),
        ("\x1b]0;images\x07,ap\n1,2\n", "no column 'images'; it has \\x1b]0;images\\x07, ap"),
    ],
)  # fmt: skip
def test_results_that_are_none(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "results.csv"
    path.write_text(text, encoding="utf-8")
    assert words in refused(path)


def test_results_are_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(10 << 30)
    for name, words in {
        "fifo": "is a pipe",
        "sparse": "has 10 GiB, at most 16 MiB are read",
        ".": "is a folder",
    }.items():
        assert words in refused(tmp_path / name)


def test_a_wide_table_is_read_in_its_own_time(tmp_path: Path) -> None:
    """20,000 columns: looking each name up among all of them took minutes."""
    path = tmp_path / "results.csv"
    more = ",".join(f"c{n}" for n in range(20_000))
    path.write_text(f"arch,images,seed,ap,{more}\n{ROWS}")
    (series,) = read_table(path).series.values()
    assert series.images == [1000, 4000, 16000]


def test_numbers_at_the_end_of_the_floats_are_read_and_fitted_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text(HEAD + "a,1e300,1e308,1e-300\na,1e305,inf,2\na,1e-300,nan,3\n")
    (series,) = read_table(path).series.values()
    assert series.images == [1e300, 1e305, 1e-300]
    for images in (series.images, [10**400, 1, 2], [1, 10, 1e308], [1, 10, 1e13], [1e-7, 1, 2], [1, 10, 2e9]):
        with pytest.raises(UserError, match=r"^images(\[\d\])? is .{1,300}$"):
            fit_law(images, [10, 20, 30])


def test_what_a_damaged_study_says_is_passed_by(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text(HEAD + ROWS)
    deep = '{"facts": {"comparable R-50": ' + "[" * 900 + "]" * 900 + "}}"
    for said in ("[" * 5000, deep, '{"facts": 3}', "\0", "[]"):
        (tmp_path / "study.json").write_text(said)
        assert len(read_table(tmp_path / "results.csv").series) == 1
    (tmp_path / "study.json").write_text(json.dumps({"facts": {"comparable R-50": "NOT comparable, as told"}}))
    (series,) = read_table(tmp_path / "results.csv").series.values()
    assert not series.comparable


@pytest.mark.slow
def test_results_of_random_bytes_are_read_or_refused(tmp_path: Path) -> None:
    """500 mutations of a results file, seeded."""
    draw, path = random.Random(17), tmp_path / "results.csv"
    pieces = [",", ";", "\n", "\r", '"', "\0", "1e400", "-", "sep=;\n", "nan", "9" * 400, "\x1b", "\ufeff", "arch"]
    for _ in range(500):
        text = list(HEAD + ROWS)
        for _ in range(draw.randrange(1, 6)):
            at = draw.randrange(len(text))
            text[at : at + draw.randrange(3)] = draw.choice([draw.choice(pieces), chr(draw.randrange(256)), ""])
        path.write_text("".join(text), encoding="utf-8", newline="")
        try:
            read_table(path)
        except UserError as e:
            assert str(e).isprintable()  # noqa: PT017 (most are none)
