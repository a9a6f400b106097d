"""``scaleprior laws`` and what it reads and draws."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scaleprior.errors import UserError
from scaleprior.laws import fit_law, fit_laws
from scaleprior.laws.pictures import draw_law, save_laws
from scaleprior.laws.table import read_table

ROWS = """arch,images,seed,ap,note
R-50,0,0,0.2,scratch
R-50,128,0,1.1,
R-50,128,1,0.7,
R-50,512,0,2.9,
R-50,512,1,2.4,
R-50,2048,0,6.1,
R-50,2048,1,5.2,
R-50,8192,0,8.9,
R-50,8192,1,8.3,
R-152,128,0,1.0,
R-152,128,1,0.8,
R-152,512,0,3.3,
R-152,512,1,2.9,
R-152,2048,0,8.0,
R-152,2048,1,7.1,
R-152,8192,0,13.1,
R-152,8192,1,12.2,
"""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "results.csv"
    path.write_text(ROWS, encoding="utf-8")
    return path


def test_fit_prints_a_table_and_leaves_from_scratch_out(cli, results: Path) -> None:
    done = cli("laws", "fit", results, "--x", "images", "--y", "ap", "--predict", 32768)
    assert done.returncode == 0, done.stderr
    assert "R-152" in done.stdout
    assert "32,768" in done.stdout
    assert "Left out: 1 from-scratch run(s) (0 images; mean R-50 0.20)" in done.stdout
    assert "4 fractions prove little" in done.stdout


def test_fit_json_is_the_library_s_answer(cli, results: Path, tmp_path: Path) -> None:
    out = tmp_path / "laws.json"
    done = cli("laws", "fit", results, "--predict", 32768, "--json", "--out", out)
    printed = json.loads(done.stdout)
    assert printed == json.loads(out.read_text())
    assert printed["left_out"] == {"R-50": [0.2]}
    assert printed["fitted_together"] == [["R-50", "R-152"]]
    n, seeds = np.repeat([128, 512, 2048, 8192], 2), ["0", "1"] * 4
    ap = {"R-50": [1.1, 0.7, 2.9, 2.4, 6.1, 5.2, 8.9, 8.3], "R-152": [1.0, 0.8, 3.3, 2.9, 8.0, 7.1, 13.1, 12.2]}
    law = fit_laws({name: (n, values, seeds) for name, values in ap.items()}, unit="percent")["R-50"]
    row = printed["laws"]["R-50"]["predictions"][0]
    assert [row["mean"], row["low"], row["high"]] == pytest.approx([float(v[0]) for v in law.predict([32768])])


def test_compare_and_forecast(cli, results: Path) -> None:
    compared = json.loads(cli("laws", "compare", results, "R-152", "R-50", "--json").stdout)
    assert compared["per_decade"]["low"] > 0
    assert compared["paired_seeds"] == 2
    assert "R-152 gains more" in cli("laws", "compare", results).stdout
    forecast = cli("laws", "forecast", results, "--target", 15, "--images", 16384)
    assert "ap 15 needs" in forecast.stdout
    assert "16,384 images give ap" in forecast.stdout


def test_out_writes_a_picture(cli, results: Path, tmp_path: Path) -> None:
    out = tmp_path / "law.png"
    assert cli("laws", "fit", results, "--out", out).returncode == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert len(out.read_bytes()) > 10_000
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".tmp")] == []


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (None, [], "results file not found"),
        ("", [], "is empty"),
        ("arch,images,ap\n", [], "a header but no rows"),
        (ROWS, ["--y", "map"], "line 1: no column 'map'; it has arch, images"),
        (ROWS, ["--group", "depth"], "no column 'depth'"),
        (ROWS.replace("2.9,\nR-50,512,1", "n/a,\nR-50,512,1"), [], "line 5, column 'ap': 'n/a' is not a number"),
        (ROWS.replace("R-50,128,1,0.7", "R-50,128,1,"), [], "line 4, column 'ap': the cell is empty"),
        (ROWS.replace("R-50,128,0", "R-50,-128,0"), [], "line 3, column 'images': -128 images"),
        ("images,ap\n0,1\n0,2\n", [], "only from-scratch rows"),
        ("images,ap\n10,1\n100,2\n", [], "2 distinct number(s) of images"),
        (ROWS, ["--out", "law.doc"], "unknown kind of file '.doc'"),
        (ROWS, ["--form", "cubic"], "unknown form 'cubic'"),
        (ROWS, ["--predict", "-5"], "cannot predict at -5 images"),
    ],
)
def test_bad_files_are_one_line_with_exit_code_2(cli, tmp_path: Path, text, arguments: list[str], message: str) -> None:
    path = tmp_path / "bad.csv"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    done = cli("laws", "fit", path, *arguments)
    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith("scaleprior: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == (["bad.csv"] if text is not None else [])


def test_compare_needs_two_names(cli, results: Path) -> None:
    done = cli("laws", "compare", results, "R-50")
    assert done.returncode == 2
    assert "name exactly two of them" in done.stderr
    assert "nothing to forecast" in cli("laws", "forecast", results).stderr


def test_table_keeps_rows_seeds_and_order(results: Path) -> None:
    table = read_table(results)
    assert list(table.series) == ["R-50", "R-152"]
    assert table.series["R-50"].images == [128, 128, 512, 512, 2048, 2048, 8192, 8192]
    assert table.series["R-50"].seeds == ["0", "1"] * 4
    with pytest.raises(UserError, match="no column 'x'"):
        read_table(results, x="x")


def test_picture_holds_data_law_band_forecast_and_forms() -> None:
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    law = fit_law([100, 316, 1000, 3162], [2.1, 5.3, 8.8, 11.0])
    draw_law(ax, law, label="R-50", until=30000)
    assert ax.get_xscale() == "log"
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert {"R-50 law", "forecast", "90 % interval", "power-law", "log-linear (not used)"} <= set(labels)
    points = next(line for line in ax.lines if line.get_marker() == "o")
    np.testing.assert_array_equal(points.get_ydata(), [2.1, 5.3, 8.8, 11.0])
    solid = next(line for line in ax.lines if line.get_label() == "R-50 law")
    dashed = next(line for line in ax.lines if line.get_label() == "forecast")
    assert solid.get_xdata()[-1] == dashed.get_xdata()[0] == 3162
    assert dashed.get_xdata()[-1] == pytest.approx(30000)
    low, high = ax.get_ylim()
    assert low < 2.1 < 11.0 < high


def test_two_laws_share_one_picture(tmp_path: Path) -> None:
    laws = {a: fit_law([100, 316, 1000, 3162], ap) for a, ap in {"a": [1, 2, 3, 4], "b": [2, 5, 9, 30]}.items()}
    save_laws(tmp_path / "two.svg", laws, file_format="svg")
    assert (tmp_path / "two.svg").stat().st_size > 5_000


def test_what_was_drawn_before_stays_in_view() -> None:
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    ax.plot([3.0, 5e6], [55.0, 70.0], "o")
    draw_law(ax, fit_law([100, 316, 1000, 3162], [2.1, 5.3, 8.8, 11.0]))
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    assert 0 < left < 3.0
    assert right > 5e6
    assert low < 2.1
    assert 70.0 < high < 80.0


def test_import_is_light() -> None:
    code = (
        "import sys, scaleprior.laws, scaleprior.commands.laws; "
        "print([m for m in ('torch', 'scipy', 'matplotlib', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_fitting_does_not_import_torch_or_another_room() -> None:
    code = (
        "import sys; from scaleprior.laws import fit_law, compare_laws, plan; fit_law([1, 10, 100], [1, 2, 3]); "
        "rooms = ('torch', 'scaleprior.corpus', 'scaleprior.study', 'scaleprior.detect', 'matplotlib'); "
        "print([m for m in rooms if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
