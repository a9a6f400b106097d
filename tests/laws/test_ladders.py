"""``fit_table``: one ladder without a law costs the others nothing, and what is left out, merged or copied is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scaleprior.cli import main
from scaleprior.errors import UserError
from scaleprior.laws import compare_laws, fit_laws, fit_table, read_table
from scaleprior.laws.ladders import series_called

LADDER = (1000, 4000, 16000, 64000)
AP = (20.0, 23.0, 25.5, 27.0)


def rows(arch: str, plus: float = 0.0, *, seeds: int = 2, note: str = "") -> list[str]:
    return [f"{arch},{n},{s},{ap + plus + s / 4:.2f},{note}" for n, ap in zip(LADDER, AP) for s in range(seeds)]


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(("arch,images,seed,ap,note", *lines)) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """R-50 and R-152 whole; R-18 has two rungs and R-101 an AP that cannot be; scratch, a copy and a merge beside."""
    lines = [*rows("R-50"), "R-18,1000,0,19.00,", "R-18,4000,0,20.00,", *rows("R-101"), *rows("R-152", 4)]
    lines[lines.index("R-101,16000,0,25.50,")] = "R-101,16000,0,-1,"
    return write(tmp_path / "r.csv", *lines, "R-50,0,0,9.50,", rows("R-50")[0], rows("R-152", 4, note="again")[0])


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_ladders_without_a_law_are_left_out_by_name_and_cost_the_others_nothing(mixed: Path) -> None:
    table = read_table(mixed)
    laws = fit_table(table)
    assert list(laws) == ["R-50", "R-152"]
    assert laws.left_out == {
        "R-18": "2 rungs (1,000 and 4,000 images), a law needs 3",
        "R-101": "metric[4] is -1, below 0; scores and errors are not negative",
    }
    ladders = {name: (series.images, series.metric, series.seeds) for name, series in table.series.items()}
    same = fit_laws(ladders, unit="percent")
    assert {name: law.per_decade for name, law in laws.items()} == {name: law.per_decade for name, law in same.items()}
    assert laws.together == same.together == (("R-50", "R-152"),)
    assert set(same.left_out) == {"R-18", "R-101"}


def test_only_an_empty_result_or_a_ladder_that_was_asked_for_is_an_error(mixed: Path, tmp_path: Path) -> None:
    table = read_table(mixed)
    assert list(fit_table(table, names=["r152", "R-50"])) == ["R-152", "R-50"]
    for name, message in (
        ("R-101", r"r\.csv, arch R-101: metric\[4\] is -1, below 0"),
        ("R-18", r"R-18 has 2 rungs"),
        ("R-34", r"has no law 'R-34'; there are R-50, R-101, R-152"),
    ):
        with pytest.raises(UserError, match=message):
            fit_table(table, names=["R-50", name])
    none = write(tmp_path / "none.csv", *(line.replace(",2", ",-2") for line in rows("R-50", seeds=1)))
    with pytest.raises(UserError, match=r"none\.csv, arch R-50: metric\[0\] is -20, below 0"):
        fit_table(read_table(none))


def test_the_three_commands_go_on_without_them(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("fit",), ("forecast", "--images", "1e5"), ("compare",)):
        assert main(["laws", words[0], str(mixed), *words[1:]]) == 0
        said = capsys.readouterr().out
        assert "Left out: R-18: 2 rungs (1,000 and 4,000 images), a law needs 3." in said
        assert "Left out: R-101: metric[4] is -1, below 0; scores and errors are not negative." in said
        assert "1 row (line 29) left out, the same as an earlier one in every cell." in said
        assert "R-152: 1 row merged with another of the same images, metric and seed, whose weight grows." in said
        assert "Left out: 1 from-scratch run(s) (0 images; mean R-50 9.50)." in said
    assert main(["laws", "compare", str(mixed), "R-50", "R-101"]) == 2
    assert "arch R-101: metric[4] is -1, below 0" in capsys.readouterr().err
    # the ladders that are not compared need no law at all
    assert main(["laws", "compare", str(mixed), "R-50", "R-152"]) == 0
    assert "R-101" not in capsys.readouterr().out


def test_json_says_what_was_read_and_what_is_in_no_law(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("fit",), ("forecast", "--images", "1e5"), ("compare",)):
        said = printed(capsys, "laws", words[0], mixed, *words[1:], "--level", "0.8")
        assert {key: said[key] for key in ("metric", "kind", "unit", "level")} == {
            "metric": "ap", "kind": "score", "unit": "percent", "level": 0.8,
        }  # fmt: skip
        assert said["rows_left_out"] == [
            {"reason": "copy", "law": "", "rows": 1, "lines": [29]},
            {"reason": "from scratch", "law": "R-50", "rows": 1, "lines": [28]},
            {"reason": "too few rungs", "law": "R-18", "rows": 2, "lines": [10, 11]},
            {"reason": "no law", "law": "R-101", "rows": 8, "lines": list(range(12, 20))},
        ]
        assert set(said["not_fitted"]) == {"R-18", "R-101"}
        assert said["notes"][0].startswith("1 row (line 29) left out")
        law = said["forecasts" if words[0] == "forecast" else "laws"]["R-152"]
        assert {key: law[key] for key in ("kind", "unit", "scale", "level", "range", "seeds", "merged")} == {
            "kind": "score", "unit": "percent", "scale": 100.0, "level": 0.8,
            "range": {"from": 1000.0, "to": 64000.0}, "seeds": ["0", "1"], "merged": 1,
        }  # fmt: skip
        assert law["rungs"] == [{"images": float(n), "runs": 2, "seeds": ["0", "1"]} for n in LADDER]
        assert law["notes"]


def test_the_documented_fields_of_json_are_those_that_are_printed(
    mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documented = (Path(__file__).parents[2] / "docs" / "laws.md").read_text(encoding="utf-8")
    section = documented[documented.index("### The fields of `--json`") : documented.index("## Which rows are one law")]
    for words in (("fit",), ("forecast", "--images", "1e5", "--target", "30"), ("compare",)):
        said = printed(capsys, "laws", words[0], mixed, *words[1:])
        keys = {*said, *said["rows_left_out"][0]}
        if words[0] == "forecast":
            keys |= {*said["forecasts"]["R-152"], *said["forecasts"]["R-152"]["images_for"]["30"]}
        if words[0] == "compare":
            keys |= {*said["laws"]["R-152"], *said["per_decade"]}
        assert [key for key in sorted(keys) if f"`{key}`" not in section] == []


def test_laws_are_the_same_whichever_of_them_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "r.csv", *rows("R-50"), *rows("R-101", 2), *rows("R-152", 4))
    table = read_table(path)
    laws, two = fit_table(table), fit_table(table, names=["R-152", "R-50"])
    assert list(two) == ["R-152", "R-50"]
    assert {name: law.per_decade for name, law in two.items()} == {name: laws[name].per_decade for name in two}
    said = printed(capsys, "laws", "compare", path, "R-152", "R-50")
    assert said["per_decade"] == compare_laws(laws["R-152"], laws["R-50"]).per_decade.to_dict()
    assert said["fitted_together"] == [["R-50", "R-101", "R-152"]]
    assert said["rows_left_out"] == []
    assert main(["laws", "compare", str(path), "R-152", "R-50"]) == 0
    assert "Fitted together: R-50, R-152, with R-101.\n" in capsys.readouterr().out


def test_ladders_that_a_study_says_are_not_comparable_lend_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "results.csv", *rows("R-50"), *rows("R-101", 2), *rows("R-152", 4))
    said = "4,000 and 16,000 images: NOT comparable by images alone (labels against captions)"
    (tmp_path / "study.json").write_text(json.dumps({"facts": {"comparable R-101": said}}), encoding="utf-8")
    laws = fit_table(read_table(path))
    assert laws.together == (("R-50", "R-152"),)
    rest = fit_table(read_table(path, where={"arch": "R-50,R-152"}))
    assert rest["R-50"].per_decade == laws["R-50"].per_decade


def test_json_of_a_comparison_says_its_range(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(capsys, "laws", "compare", mixed, "r-152", "r50")
    laws = fit_table(read_table(mixed), names=["R-152", "R-50"])
    found = compare_laws(laws["R-152"], laws["R-50"])
    assert said["names"] == ["R-152", "R-50"]
    assert said["range"] == {"from": 6400.0, "to": 64000.0}
    assert said["per_decade"] == found.per_decade.to_dict()
    others = [(one["law"], one["rows"]) for one in said["rows_left_out"] if one["reason"] == "not asked for"]
    assert others == [("R-18", 2), ("R-101", 8)]


def test_rows_that_were_not_asked_for_or_are_not_comparable_have_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    marked = [f"{line},{'no' if ',64000,' in line else 'yes'}" for line in rows("R-50")]
    path.write_text("\n".join(("arch,images,seed,ap,note,comparable", *marked, "R-18,1,0,2,,yes")), encoding="utf-8")
    left = {one.reason: one.lines for one in read_table(path, where={"arch": "R-50"}).left_out}
    assert left == {"not asked for": (10,), "not comparable": (8, 9)}


def test_unseeded_rows_are_merged_and_said(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("images,ap\n" + "".join(f"{n},{ap}\n" * 2 for n, ap in zip(LADDER, AP)), encoding="utf-8")
    laws = fit_table(read_table(path))
    assert laws["ap"].data.merged == 4


@pytest.mark.parametrize(
    ("typed", "meant"), [("r50", "R-50"), ("R_152", "R-152"), ("R 152", "R-152"), ("R-50", "R-50")]
)
def test_names_of_laws_are_known_by_their_letters(mixed: Path, typed: str, meant: str) -> None:
    assert series_called(read_table(mixed), typed) == meant


def test_what_is_wrong_for_every_ladder_is_no_fault_of_one(mixed: Path) -> None:
    with pytest.raises(UserError, match=r"^level 2 is not inside \(0, 1\)"):
        fit_table(read_table(mixed, where={"arch": "R-50,R-152"}), level=2)


def test_names_may_follow_options(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["laws", "compare", str(mixed), "--y", "AP", "r152", "r50"]) == 0
    assert capsys.readouterr().out.startswith("R-152 minus R-50\n")


def test_text_says_the_unit_and_the_level(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["laws", "fit", str(mixed), "--level", "0.995", "--predict", "1e5"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("ap in percent, gains with the 99.5 % interval of the law\n")
    assert "99.5 % interval of a new run" in said


def test_a_name_that_is_nearly_one_is_asked_about(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["laws", "compare", str(mixed), "R-50", "R152d"]) == 2
    assert "r.csv has no law 'R152d'; is R-152 meant? there are R-50, R-101, R-152\n" in capsys.readouterr().err


def test_no_name_is_no_law(mixed: Path) -> None:
    assert fit_table(read_table(mixed), names=[]) == {}
