"""Whether AP of a results file is percent or fractions: what proves it, and who is asked where nothing does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scaleprior.cli import main
from scaleprior.detect.results_file import COLUMNS as DETECT_COLUMNS
from scaleprior.errors import UserError
from scaleprior.laws import fit_table, read_table
from scaleprior.laws.units import AUTO, OURS, PERCENT, UNCLEAR, unit_of_column
from scaleprior.study.report.summary import COLUMNS as STUDY_COLUMNS
from scaleprior.wording import in_flags

LADDER = (100, 1000, 10000)
ASKED = "ap is at most 0.6, which may be 60 or 0.6 percent; say "


def table(path: Path, columns: dict[str, tuple[object, ...]], *more: str) -> Path:
    lines = [",".join(map(str, (n, *values))) for n, *values in zip(LADDER, *columns.values())]
    path.write_text("\n".join((",".join(("images", *columns)), *lines, *more)) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("column", ["ap", "AP", "ap50", "ap_small", "APs", "bbox/AP", "segm_AP75", "mAP", "ar100"])
def test_values_of_at_most_one_in_a_column_of_ap_are_asked_about(tmp_path: Path, column: str) -> None:
    read = read_table(table(tmp_path / "r.csv", {column: (0.1, 0.3, 0.6)}), y=column)
    with pytest.raises(UserError) as asked:
        fit_table(read)
    assert "is at most 0.6, which may be 60 or 0.6 percent; say unit='fraction'" in str(asked.value)
    assert "say --unit fraction (as pycocotools prints them) or --unit percent" in in_flags(asked.value)
    for unit, scale in (("fraction", 1.0), ("percent", 100.0)):
        assert fit_table(read, unit=unit)[read.metric].data.scale == scale


@pytest.mark.parametrize("action", [["fit"], ["compare"], ["forecast", "--images", "5"]])
def test_every_command_asks_with_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], action: list[str]
) -> None:
    path = table(tmp_path / "r.csv", {"ap": (0.1, 0.3, 0.6), "arch": ("a", "a", "a")}, *(f"{n},0.5,b" for n in LADDER))
    words = ["laws", action[0], str(path), *action[1:]]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"r.csv: {ASKED}--unit fraction" in said
    assert said.count("\n") == 1
    for unit in ("fraction", "percent"):
        assert main([*words, "--unit", unit, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["unit"] == unit


def test_another_value_of_ap_above_one_proves_percent(tmp_path: Path) -> None:
    beside = table(tmp_path / "beside.csv", {"ap": (0.1, 0.3, 0.6), "ap50": (0.4, 0.9, 1.8)})
    assert fit_table(read_table(beside))["ap"].data.scale == 100.0
    # also in rows that nobody asked for
    other = table(tmp_path / "other.csv", {"ap": (0.1, 0.3, 0.6), "arch": ("a", "a", "a")}, "10,4.2,b")
    assert fit_table(read_table(other, where={"arch": "a"}))["a"].data.scale == 100.0


def test_files_of_this_package_are_percent_whatever_their_values(tmp_path: Path) -> None:
    assert unit_of_column("ap", STUDY_COLUMNS, []) == unit_of_column("ap", DETECT_COLUMNS, []) == OURS
    same = dict.fromkeys(("engine", "cell", "images_seen"), ("x",) * 3)
    read = read_table(table(tmp_path / "results.csv", {"ap": (0.1, 0.3, 0.6), **same}))
    assert fit_table(read)["ap"].data.scale == 100.0
    # nor is a run that broke down taken for a fraction
    read = read_table(table(tmp_path / "results.csv", {"ap": (20, 24, 0.6), **same}))
    assert fit_table(read)["ap"].data.scale == 100.0


def test_other_names_and_kinds_are_what_their_values_say(tmp_path: Path) -> None:
    for column in ("accuracy", "map_url", "shape", "apples", "bar", "cap"):
        found = unit_of_column(column, [column], [(2, {column: "0.5"})])
        assert found == (UNCLEAR if column == "map_url" else AUTO), column
    assert unit_of_column("ap", ["ap"], [(2, {"ap": "38,5"})]) == PERCENT
    read = read_table(table(tmp_path / "r.csv", {"accuracy": (0.1, 0.3, 0.6), "ap": (0.9, 0.5, 0.3)}), y="accuracy")
    assert fit_table(read)["accuracy"].data.scale == 1.0
    assert fit_table(read_table(tmp_path / "r.csv"), kind="error")["ap"].data.scale == 1.0


def test_zeros_are_zeros_in_both(tmp_path: Path) -> None:
    assert fit_table(read_table(table(tmp_path / "r.csv", {"ap": (0, 0, 0)})))["ap"].data.scale == 100.0


def test_a_series_of_fractions_beside_percent_is_left_out_by_name(tmp_path: Path) -> None:
    rows = [f"{n},{ap},b" for n, ap in zip(LADDER, (0.21, 0.25, 0.29))]
    path = table(tmp_path / "r.csv", {"ap": (20, 24, 28), "arch": ("a", "a", "a")}, *rows)
    laws = fit_table(read_table(path))
    assert list(laws) == ["a"]
    assert laws.left_out["b"].startswith("metric 0.21 at 100 images beside 20 at no more images looks like fractions")
    assert list(fit_table(read_table(path), unit="percent")) == ["a", "b"]
