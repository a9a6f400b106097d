"""Results files as spreadsheets and other programs write them: read as they are meant, or refused with the place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scaleprior.cli import main
from scaleprior.errors import UserError
from scaleprior.laws import read_table

HEAD = ("arch", "images", "seed", "ap", "max_iter")
LADDER = (1000, 4000, 16000, 64000)
ROWS = [
    ("R-50", str(n), str(seed), f"{20 + i + seed / 4:.4f}", "90000") for i, n in enumerate(LADDER) for seed in (0, 1)
]


def write(path: Path, *lines: str, head: str = ",".join(HEAD)) -> Path:
    path.write_text("\n".join((head, *lines)) + "\n", encoding="utf-8")
    return path


def lines(delimiter: str = ",") -> list[str]:
    return [delimiter.join(row) for row in ROWS]


def series(path: Path) -> tuple[list[float], list[float], list[str | None]]:
    (found,) = read_table(path).series.values()
    return found.images, found.metric, found.seeds


@pytest.mark.parametrize("delimiter", [";", "\t"])
@pytest.mark.parametrize("comma", [False, True])
def test_other_delimiters_and_decimal_commas_are_the_same_rows(tmp_path: Path, delimiter: str, comma: bool) -> None:
    body = [line.replace(".", ",") if comma else line for line in lines(delimiter)]
    other = write(tmp_path / "other.csv", *body, head=delimiter.join(HEAD))
    assert series(other) == series(write(tmp_path / "plain.csv", *lines()))


def test_of_whole_numbers_a_comma_is_no_decimal_one(tmp_path: Path) -> None:
    body = [line.replace("64000", "64,000") for line in lines(";")]
    path = write(tmp_path / "r.csv", *body, head=";".join(HEAD))
    with pytest.raises(UserError, match=r"line 8, column 'images': '64,000' is not a number; write digits"):
        read_table(path)


def test_empty_lines_at_the_end_and_pandas_seeds_change_nothing(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.csv", *lines())
    floats = [",".join((row[0], f"{row[1]}.0", f"{row[2]}.0", row[3], f"{row[4]}.0")) for row in ROWS]
    mixed = write(tmp_path / "r.csv", *lines()[:3], *floats[3:], "", ",,,,", " , ,,,,,")
    assert series(mixed) == series(plain)


def test_our_columns_in_other_capitals_split_laws_as_ours_do(tmp_path: Path) -> None:
    other = [line.replace("90000", "270000") for line in lines()]
    path = write(tmp_path / "r.csv", *lines(), *other, head="Arch,Images,Seed,AP,Max Iter")
    table = read_table(path, x="Images", y="AP", group="Arch")
    assert list(table.series) == list(read_table(path).series) == ["R-50, max_iter 90000", "R-50, max_iter 270000"]
    assert list(read_table(path, where={"Max Iter": 90000}).series) == ["R-50"]
    assert list(read_table(path, across="Max Iter").series) == ["R-50"]


@pytest.mark.parametrize(
    ("head", "line", "message"),
    [
        ("arch,images,seed,ap,ap", "R-50,1,0,20,30", "line 1: 2 columns are called 'ap'"),
        ("arch,images,seed,ap,note", "R-50,1,0,20,first, then more", "line 2: 6 cells for 5 columns"),
        ("arch,images,seed,ap,note", "R-50,1,0,20%,x", "'20%' is not a number; write digits and a decimal point only"),
        ("arch,images,seed,ap,note", "R-50,10M,0,20,x", "'10M' is not a number; write digits"),
    ],
)
def test_what_may_mean_another_value_is_refused(tmp_path: Path, head: str, line: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        read_table(write(tmp_path / "r.csv", line, head=head))
    assert message in str(refused.value)


def test_a_row_that_is_there_twice_counts_once_and_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", *lines(), *lines()[:2])
    assert series(path) == series(write(tmp_path / "plain.csv", *lines()))
    assert read_table(path).notes == ("2 rows (lines 10, 11) left out, the same as an earlier one in every cell",)
    # without seeds, equal rows may be two runs
    body = [f"{row[1]},{row[3]}" for row in ROWS]
    assert len(series(write(tmp_path / "s.csv", *body, body[0], head="images,ap"))[0]) == len(ROWS) + 1


def test_fractions_are_shown_with_their_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = [f"{row[0]},{row[1]},{row[2]},{float(row[3]) / 100:.6f},90000" for row in ROWS]
    path = write(tmp_path / "r.csv", *body)
    assert main(["laws", "fit", str(path), "--unit", "fraction", "--predict", "64000"]) == 0
    said = capsys.readouterr().out
    assert main(["laws", "fit", str(path), "--unit", "fraction", "--predict", "64000", "--json"]) == 0
    law = json.loads(capsys.readouterr().out)["laws"]["R-50"]
    assert f"{law['predictions'][0]['mean']:.4f}" in said
    assert f"{law['per_decade']['value']:.4f} [" in said


def test_what_is_left_out_is_in_a_comparison_s_json_and_the_unreachable_is_said_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = [line.replace("R-50", "R-152") for line in lines()]
    path = write(tmp_path / "r.csv", *lines(), *deep, "R-50,0,0,10,90000", "R-18,1000,0,9,90000")
    assert main(["laws", "compare", str(path), "R-152", "R-50", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["left_out"] == {"R-50": [10.0]}
    assert list(found["too_few"]) == ["R-18"]
    assert main(["laws", "forecast", str(path), "--target", "99"]) == 0
    assert "ap 99 is out of reach" in capsys.readouterr().out


def test_a_fraction_among_percents_is_refused_unless_percent_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "r.csv", lines()[0].replace("20.0000", "0.2000"), *lines()[1:])
    assert main(["laws", "fit", str(path)]) == 2
    said = capsys.readouterr().err
    assert "R-50: metric 0.2 at 1000 images beside 20.25" in said
    assert "looks like fractions mixed with percent; give all values in [0, 1] or all in [0, 100]" in said
    assert main(["laws", "fit", str(path), "--unit", "percent"]) == 0


@pytest.mark.parametrize("said", ["sep=;", "SEP=;"])
def test_the_line_by_which_excel_names_its_delimiter_is_no_header(tmp_path: Path, said: str) -> None:
    head = f"{said}\n{';'.join(HEAD)}"
    body = [line.replace(".", ",") for line in lines(";")]
    assert series(write(tmp_path / "r.csv", *body, head=head)) == series(write(tmp_path / "plain.csv", *lines()))
    with pytest.raises(UserError, match=r"line 10, column 'ap': 'x' is not a number"):
        read_table(write(tmp_path / "r.csv", *lines(";")[:-1], "R-50;64000;1;x;90000", head=head))


@pytest.mark.parametrize("delimiter", ["|", " "])
def test_another_delimiter_is_named_as_the_fault(tmp_path: Path, delimiter: str) -> None:
    path = write(tmp_path / "r.csv", *lines(delimiter), head=delimiter.join(HEAD))
    with pytest.raises(UserError, match=r"no column 'images'; .*; separate the columns by commas, semicolons or tabs"):
        read_table(path)


def test_columns_are_known_by_their_letters_and_near_ones_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", *lines(), head="Arch,num_images,run_seed,box AP,note")
    table = read_table(path, x="Num Images", y="box_ap", seed="RunSeed")
    assert series(write(tmp_path / "plain.csv", *lines())) == (
        table.series["R-50"].images, table.series["R-50"].metric, table.series["R-50"].seeds,
    )  # fmt: skip
    for options, message in (
        ({"y": "box AP"}, r"no column 'images'; it has arch, num_images, .*; is x='num_images' meant\?"),
        ({"x": "num_images"}, r"no column 'ap'; it has .*; is y='box AP' meant\?"),
        (
            {"x": "num_images", "y": "box AP", "seed": "run_seeds"},
            r"no column 'run_seeds'; .*; is seed='run_seed' meant\?",
        ),
        ({"x": "num_images", "y": "box AP", "group": "arhc"}, r"no column 'arhc'; .*; is group='arch' meant\?"),
        ({"x": "num_images", "y": "box AP", "where": {"nota": "1"}}, r"no column 'nota' .*; is 'note' meant\?"),
        ({"x": "num_images", "y": "loss"}, r"no column 'loss'; .*; name one of these"),
    ):
        with pytest.raises(UserError, match=message):
            read_table(path, **options)


def test_a_hint_can_be_typed_as_it_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "r.csv", *lines(), head="arch,images,seed,box AP,note")
    assert main(["laws", "fit", str(path)]) == 2
    assert "is --y 'box AP' meant?" in capsys.readouterr().err


def test_seeds_in_a_column_of_another_name_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "r.csv", *lines(), head="arch,images,random_seed,ap,note")
    assert main(["laws", "fit", str(path)]) == 0
    said = "No column 'seed': each row counts as a run of its own; --seed-column random_seed makes seeds of column"
    out = capsys.readouterr().out
    assert said in out
    assert "makes laws of it" not in out
    assert read_table(path, seed="random seed").notes == ()
    plain = [line.split(",", 1)[1] for line in lines()]
    notes = read_table(write(tmp_path / "r.csv", *plain, head="images,run,ap,note")).notes
    assert not any("each row counts as a run of its own" in note for note in notes)


def test_the_command_line_names_its_own_option_for_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "r.csv", *lines())
    assert main(["laws", "fit", str(path), "--seed-column", "seeds"]) == 2
    assert "is --seed-column seed meant?" in capsys.readouterr().err


def test_values_of_where_are_known_by_their_letters_but_numbers_are_not(tmp_path: Path) -> None:
    head = "arch,images,seed,ap,detector,base_lr"
    body = [f"R-50,{n},0,{ap},{d},{lr}" for n, ap in ((1, 2), (2, 3)) for d, lr in (("FPN", "0,02"), ("C4", "-1"))]
    path = write(
        tmp_path / "r.csv",
        *(line.replace(",", ";").replace("0;02", "0,02") for line in body),
        head=head.replace(",", ";"),
    )
    for where in ({"detector": "fpn"}, {"Detector": "F-P-N"}, {"arch": "r50", "base_lr": 0.02}, {"base_lr": "0.02"}):
        assert set(read_table(path, where=where).series["R-50"].identity["detector"]) == {"FPN"}, where
    for where, message in (
        ({"detector": "FPNN"}, r"has detector 'FPNN'; is 'FPN' meant\? there are FPN, C4"),
        ({"base_lr": "1"}, r"has base_lr '1'; there are 0,02, -1"),
    ):
        with pytest.raises(UserError, match=message):
            read_table(path, where=where)
    with pytest.raises(UserError, match=r"where names column 'detector' twice, once as 'Detector'; name it once"):
        read_table(path, where={"detector": "FPN", "Detector": "C4"})
    both = write(tmp_path / "both.csv", "R-50,1,0,2,FPN,1", "R-50,1,0,2,fpn,1", head=head)
    with pytest.raises(UserError, match=r"has detector 'Fpn'; is 'fpn' meant\? there are FPN, fpn"):
        read_table(both, where={"detector": "Fpn"})
    assert list(read_table(both, where={"detector": "FPN"}).series["R-50"].lines) == [2]
