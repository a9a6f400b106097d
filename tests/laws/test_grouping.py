"""Rows that a comparison must not mix: split and named, chosen among, left out or refused, never drawn as one law."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scaleprior.cli import main
from scaleprior.errors import UserError
from scaleprior.laws import differences, draw_law, fit_law, fit_laws, fit_table, read_table
from scaleprior.laws.grouping import IDENTITY
from scaleprior.laws.pictures import save_laws
from scaleprior.wording import in_flags

LADDER = (1000, 4000, 16000, 64000)
PLAIN = {
    "arch": "R-50", "engine": "detectron2", "dataset": "coco_2017_val", "detector": "build_resnet_backbone",
    "max_iter": "90000", "comparable": "yes", "corpus": "JFT", "recipe": "paper-1a2b3c4d", "settings": "0badcafe",
}  # fmt: skip


@dataclass(frozen=True)
class Done:
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


Cli = Callable[..., Done]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line, in this process: what it prints is the same, and imports are paid for once."""

    def run(*words: object) -> Done:
        return Done(main(list(map(str, words))), *capsys.readouterr())

    return run


def rung(images: int, seed: int = 0, *, plus: float = 0.0, **cells: Any) -> dict[str, Any]:
    """A run: AP rises with images; what a run has by nature differs from rung to rung."""
    ap = 20.0 + plus + (3.0 + plus / 10) * LADDER.index(images) ** 0.9 + 0.1 * seed
    nature = {"backbone": f"b-{images}", "tensors_sha256": f"{images:x}", "run": f"{images}-{seed}-{plus}"}
    return {"images": images, "seed": seed, "ap": round(ap, 3), **nature, **PLAIN, **cells}


def ladder(*, rungs: Iterable[int] = LADDER, **cells: Any) -> list[dict[str, Any]]:
    return [rung(images, seed, **cells) for images in rungs for seed in (0, 1)]


def written(path: Path, *parts: list[dict[str, Any]]) -> Path:
    rows = list(itertools.chain(*parts))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(c for row in rows for c in row)), restval="")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue())
    return path


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("detector", "build_resnet_fpn_backbone"),
        ("detector", "build_resnet_fpn_backbone+CascadeROIHeads"),
        ("max_iter", "270000"),
        ("dataset", "lvis_v1_val"),
        ("engine", "torchvision"),
        ("corpus", "ImageNet-1k"),
        ("recipe", "custom-99999999"),
        ("settings", "deadbeef"),
        ("arm", "SyncBN"),
        ("batch_size", "8"),
        ("base_lr", "0.01"),
        ("freeze_at", "0"),
        ("norm", "SyncBN"),
        ("trained_on", "coco_2014_train"),
        ("detector_settings", "66666666"),
        ("test_settings", "55555555"),
    ],
)
def test_rows_that_differ_in_what_identifies_a_comparison_are_two_laws(tmp_path: Path, column: str, value: str) -> None:
    first, second = ladder(**{column: PLAIN.get(column, "usual")}), ladder(plus=5.0, **{column: value})
    path = written(tmp_path / "r.csv", [row for pair in zip(first, second) for row in pair])
    table = read_table(path)
    names = [f"R-50, {column} {PLAIN.get(column, 'usual')}", f"R-50, {column} {value}"]
    assert list(table.series) == names
    assert table.differ == {"R-50": {column: (PLAIN.get(column, "usual"), value)}}
    assert f"R-50 is 2 laws: its rows differ in {column} (" in table.notes[0]
    for name, rows in zip(names, (first, second)):
        assert table.series[name].metric == [row["ap"] for row in rows]
        assert table.series[name].identity[column] == (rows[0][column],)
    laws = fit_table(table, unit="percent")
    ladders = {name: ([r["images"] for r in rows], [r["ap"] for r in rows], ["0", "1"] * 4)
               for name, rows in zip(names, (first, second))}  # fmt: skip
    if column == "dataset":  # measured on other images: nothing is borrowed
        del ladders[names[1]]
    assert laws[names[0]].per_decade == fit_laws(ladders, unit="percent")[names[0]].per_decade


def test_every_identity_column_is_in_the_test_above_or_has_one_of_its_own() -> None:
    above = next(mark for mark in test_rows_that_differ_in_what_identifies_a_comparison_are_two_laws.pytestmark)
    assert {c for c, _ in above.args[1]} | {"arch", "comparable"} == set(IDENTITY)


def test_what_a_run_has_by_nature_or_nobody_declared_splits_nothing(tmp_path: Path) -> None:
    rows = [{**row, "detector_path": row["run"], "note": row["run"], "commit": row["run"]} for row in ladder()]
    table = read_table(written(tmp_path / "r.csv", rows))
    assert list(table.series) == ["R-50"]
    assert table.notes == ()
    assert table.series["R-50"].identity == {column: (value,) for column, value in PLAIN.items()}


def test_a_column_that_only_repeats_another_s_difference_is_in_no_name(tmp_path: Path) -> None:
    """Three schedules of two detectors: the settings follow from both, and are in the identity all the same."""
    parts = [
        ladder(detector=d, max_iter=m, settings=f"{m}{d[-1]}", plus=i)
        for i, (d, m) in enumerate((("C4", "90000"), ("FPN", "90000"), ("FPN", "270000")))
    ]
    table = read_table(written(tmp_path / "r.csv", *parts))
    assert list(table.series) == [
        "R-50, detector C4, max_iter 90000",
        "R-50, detector FPN, max_iter 90000",
        "R-50, detector FPN, max_iter 270000",
    ]
    assert table.series["R-50, detector FPN, max_iter 270000"].identity["settings"] == ("270000N",)
    assert set(table.differ["R-50"]) == {"detector", "max_iter", "settings"}


def test_one_architecture_s_difference_splits_no_other(tmp_path: Path) -> None:
    table = read_table(written(tmp_path / "r.csv", ladder(), ladder(max_iter="270000", plus=2), ladder(arch="R-152")))
    assert list(table.series) == ["R-50, max_iter 90000", "R-50, max_iter 270000", "R-152"]


def test_an_empty_cell_is_a_value_of_its_own_and_said(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", ladder(settings=""), ladder(plus=2))
    table = read_table(path)
    assert list(table.series) == ["R-50, settings unknown", "R-50, settings 0badcafe"]
    assert table.notes == (
        "R-50 is 2 laws: its rows differ in settings (unknown, 0badcafe); if the unknown ones are known to be "
        "alike, across='settings' draws one law",
    )
    assert list(read_table(path, across="settings").series) == ["R-50"]
    assert list(read_table(path, where={"settings": "unknown"}).series) == ["R-50"]


def test_numbers_are_one_value_in_any_spelling_and_hashes_are_text(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", ladder(base_lr="0.02"), ladder(max_iter="9e4", base_lr="0.020"))
    assert list(read_table(path).series) == ["R-50"]
    path = written(tmp_path / "r.csv", ladder(settings="1234e999"), ladder(settings="9999e999", plus=2))
    assert list(read_table(path).series) == ["R-50, settings 1234e999", "R-50, settings 9999e999"]
    assert read_table(path, where={"settings": "9999e999"}).series["R-50"].metric == [r["ap"] for r in ladder(plus=2)]
    with pytest.raises(UserError, match=r"no row of .* has settings '5555e999'"):
        read_table(path, where={"settings": "5555e999"})


def test_where_chooses_rows_and_is_checked(tmp_path: Path) -> None:
    odd = "Instagram, 1.5K hashtags"
    parts = [ladder(max_iter=m, plus=i) for i, m in enumerate(("90000", "180000", "270000"))]
    path = written(tmp_path / "r.csv", *parts, ladder(corpus=odd, plus=9), [rung(1000, arch="R-18", ap="broken")])
    only = {"arch": "R-50", "corpus": "JFT"}  # the broken cell is not among the rows asked for
    assert list(read_table(path, where={**only, "max_iter": 180000}).series) == ["R-50"]
    assert read_table(path, where={**only, "max_iter": "180000"}).notes == ()
    for several in ("90000,270000", ["90000", "270000"], (9e4, 27e4)):
        table = read_table(path, where={**only, "max_iter": several})
        assert list(table.series) == ["R-50, max_iter 90000", "R-50, max_iter 270000"]
    assert list(read_table(path, where={"corpus": odd}).series) == ["R-50"]  # a comma of the cell's own
    for where, message in (
        ({"max_iter": "9000"}, r"no row of .*r\.csv has max_iter '9000'; there are 90000, 180000, 270000"),
        (
            {"max_iters": "9"},
            r"line 1: no column 'max_iters' to choose by; it has images, seed, ap, .*; is 'max_iter' meant",
        ),
        ({"steps": "9"}, r"line 1: no column 'steps' to choose by; it has images, seed, ap, .*; name one"),
        (
            {"max_iter": "270000", "corpus": odd},
            "has max_iter 270000 and corpus Instagram, 1.5K hashtags; ask for less",
        ),
    ):
        with pytest.raises(UserError, match=message):
            read_table(path, where=where)


def test_several_columns_group_and_name(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", ladder(), ladder(detector="FPN", plus=2))
    names = ["R-50, detector build_resnet_backbone", "R-50, detector FPN"]
    for group in ("arch,detector", ["arch", "detector"], "arch, detector"):
        table = read_table(path, group=group)
        assert (list(table.series), table.group, table.differ) == (names, ("arch", "detector"), {})
    # rows of several architectures are no law of a detector
    path = written(tmp_path / "r.csv", ladder(), ladder(arch="R-152", plus=2))
    assert list(read_table(path, group="detector").series) == [
        "build_resnet_backbone, arch R-50", "build_resnet_backbone, arch R-152",
    ]  # fmt: skip


def test_a_part_with_too_few_rungs_costs_no_other_its_law(cli: Cli, tmp_path: Path) -> None:
    path = written(
        tmp_path / "r.csv", ladder(), ladder(rungs=LADDER[:2], max_iter="270000", plus=2), [rung(1000, arch="R-18")]
    )
    table = read_table(path)
    assert table.too_few == {
        "R-50, max_iter 270000": "2 rungs (1,000 and 4,000 images), a law needs 3",
        "R-18": "1 rung (1,000 images), a law needs 3",
    }
    assert list(fit_table(table)) == ["R-50, max_iter 90000"]
    done = cli("laws", "fit", path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^R-50, max_iter 90000 +8 +4 ", done.stdout, re.MULTILINE)
    assert "R-50 is 2 laws: its rows differ in max_iter (90000, 270000)." in done.stdout
    assert "Left out: R-50, max_iter 270000: 2 rungs (1,000 and 4,000 images), a law needs 3." in done.stdout
    told = cli("laws", "compare", path, "R-50, max_iter 90000", "R-50, max_iter 270000")
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    assert (
        "R-50, max_iter 270000 has 2 rungs (1,000 and 4,000 images), a law needs 3; there are 'R-50, max" in told.stderr
    )


def test_where_nothing_is_left_the_error_says_what_differs_and_what_to_type(cli: Cli, tmp_path: Path) -> None:
    """Every rung of another corpus: never a law, unless somebody says that it is one."""
    rows = [row for i, n in enumerate(LADDER) for row in ladder(rungs=[n], corpus=f"pool {i}", max_iter=str(9 + i))]
    path = written(tmp_path / "r.csv", rows)
    with pytest.raises(UserError, match="no part is left with enough rungs") as error:
        fit_table(read_table(path))
    assert "Differ: R-50 in max_iter (9, 10, 11, 12), corpus (pool 0, pool 1, pool 2, pool 3)." in str(error.value)
    assert "where={'max_iter': '9'}" in str(error.value)
    assert "across='max_iter,corpus'" in str(error.value)
    assert "--where max_iter=9" in in_flags(error.value)
    done = cli("laws", "fit", path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "draw one law with --across max_iter,corpus" in done.stderr
    done = cli("laws", "fit", path, "--across", "max_iter,corpus", "--json")
    printed = json.loads(done.stdout)
    assert list(printed["laws"]) == ["R-50"]
    assert printed["laws"]["R-50"]["identity"]["max_iter"] == ["9", "10", "11", "12"]
    assert printed["notes"] == [
        "R-50 is drawn across max_iter (9, 10, 11, 12), corpus (pool 0, pool 1, pool 2, pool 3), as asked"
    ]


def test_across_takes_columns_that_split(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", ladder(), ladder(engine="torchvision"))
    assert list(read_table(path, across="engine").series) == ["R-50"]
    for across, message in (
        ("engin", "no column 'engin'"),
        ("backbone", "across is 'backbone', which splits no law; of this file arch, dataset, "),
        ("arch", "across and group name arch; keep one"),
    ):
        with pytest.raises(UserError, match=message):
            read_table(path, across=across, group="arch")
    path = written(tmp_path / "r.csv", ladder(), ladder(arch="R-152"))
    assert list(read_table(path, across="arch").series) == ["ap"]  # the default gives way
    with pytest.raises(UserError, match=r"group is ',', which names no column"):
        read_table(path, group=",")


def test_rungs_that_are_not_comparable_are_left_out_or_a_law_of_their_own(cli: Cli, tmp_path: Path) -> None:
    public = [rung(n, comparable="no", corpus=f"pool {n}", recipe="", plus=9.0) for n in LADDER[1:]]
    path = written(tmp_path / "r.csv", ladder(), public)
    table = read_table(path)
    assert list(table.series) == ["R-50"]
    assert table.series["R-50"].metric == [row["ap"] for row in ladder()]
    assert table.notes == (
        "3 rows of R-50 left out, marked comparable no (4,000, 16,000, 64,000 images): "
        "where={'comparable': 'no'} draws them",
    )
    assert (
        "3 rows of R-50 left out, marked comparable no (4,000, 16,000, 64,000 images): --where comparable=no draws"
        in (cli("laws", "fit", path).stdout)
    )
    table = read_table(path, where={"comparable": "no"})
    assert table.series["R-50"].metric == [row["ap"] for row in public]
    assert table.notes == (
        "Rungs of R-50 are not comparable by their images alone and differ in corpus "
        "(pool 4000, pool 16000, pool 64000): a picture, not a slope",
    )
    table = read_table(path, where={"comparable": "yes,no"})
    assert list(table.series) == ["R-50", "R-50, comparable no"]
    assert fit_table(table).together == ()
    path = written(tmp_path / "only.csv", public)
    with pytest.raises(UserError, match=r"has only rungs that are not comparable: 3 rows of R-50 .*where=.*; or"):
        read_table(path)


@pytest.mark.parametrize("word", ["no", "No", "NOT by images alone", "no: another recipe"])
def test_words_for_no(tmp_path: Path, word: str) -> None:
    path = written(tmp_path / "r.csv", ladder(), [rung(4000, comparable=word)])
    assert len(read_table(path).series["R-50"].images) == 8
    path = written(tmp_path / "r.csv", ladder(comparable=""), [rung(4000, comparable="nobody knows")])
    assert len(read_table(path).series["R-50"].images) == 9


def test_what_a_study_says_of_its_rungs_is_said(tmp_path: Path) -> None:
    """Of a study of public backbones; what it writes is tested with it (tests/study/test_public_ladder.py)."""
    path = written(tmp_path / "results.csv", ladder(), ladder(arch="R-152"))
    said = "4,000 and 16,000 images: NOT comparable by images alone (labels against captions)"
    facts = {"comparable R-50": said, "comparable R-152": "all rungs have one supervision (labels)"}
    (tmp_path / "study.json").write_text(json.dumps({"facts": facts}))
    assert read_table(path).notes == (f"R-50, as its study says: {said}",)
    assert read_table(path, where={"arch": "R-152"}).notes == ()
    for other in ("[", "[]", "{}"):
        (tmp_path / "study.json").write_text(other)
        assert read_table(path).notes == ()


def test_from_scratch_runs_are_not_mixed_either_and_split_no_law(tmp_path: Path) -> None:
    scratch = [
        {**rung(1000, s, max_iter=m, corpus="", recipe="", settings=f"s{m}"), "images": 0} for m in "12" for s in (0, 1)
    ]
    table = read_table(written(tmp_path / "r.csv", scratch, ladder()))
    assert list(table.series) == ["R-50"]
    assert table.notes == ()
    assert {name: len(v) for name, v in table.from_scratch.items()} == {"R-50, max_iter 1": 2, "R-50, max_iter 2": 2}
    table = read_table(written(tmp_path / "r.csv", scratch[:2], ladder(), ladder(max_iter="1", plus=3)))
    assert list(table.from_scratch) == ["R-50, max_iter 1"]


def test_repeated_runs_that_differ_in_a_foreign_column_are_said(tmp_path: Path) -> None:
    rows = [{**row, "augmentation": a, "run": a} for a in ("plain", "strong") for row in ladder()]
    table = read_table(written(tmp_path / "r.csv", rows))
    said = "Rows of R-50 differ in augmentation (plain, strong), which splits no law: "
    assert [note.flags for note in table.notes] == [f"{said}--group arch,augmentation makes laws of it"]
    assert list(read_table(tmp_path / "r.csv", group="arch,augmentation").series) == [
        "R-50, augmentation plain", "R-50, augmentation strong",
    ]  # fmt: skip


@pytest.mark.parametrize("seeds", ["none", "each its own"])
def test_an_axis_that_nobody_declared_is_said_without_shared_seeds(tmp_path: Path, seeds: str) -> None:
    """Both values stand at every rung; what has a value at one rung each, or is a seed, is no axis."""
    rows = [
        {"arch": "R-50", "images": n, "ap": 20 + i + 3 * (s == "3x"), "schedule": s, "host": f"node{n}"}
        | ({"seed": seed} if seeds != "none" else {})
        for seed, s in enumerate(("1x", "3x"))
        for i, n in enumerate(LADDER)
    ]
    (note,) = read_table(written(tmp_path / "r.csv", rows)).notes
    assert note.flags == (
        "Rows of R-50 differ in schedule (1x, 3x), which splits no law: --group arch,schedule makes laws of it"
    )
    assert len(read_table(tmp_path / "r.csv", group="arch,schedule").series) == 2
    assert not read_table(written(tmp_path / "plain.csv", ladder())).notes


def test_compare_says_what_else_differs(cli: Cli, tmp_path: Path) -> None:
    """R-152 on C4 against R-50 on FPN: two things at once."""
    path = written(tmp_path / "r.csv", ladder(arch="R-152", plus=9), ladder(detector="FPN", settings="ffff0000"))
    done = cli("laws", "compare", path)
    assert done.returncode == 0, done.stderr
    assert (
        "They differ in detector (build_resnet_backbone against FPN) and settings (0badcafe against ffff0000), too: "
        "the difference is not that of arch alone."
    ) in done.stdout
    printed = json.loads(cli("laws", "compare", path, "R-50", "R-152", "--json").stdout)
    assert printed["differ"]["detector"] == ["FPN", "build_resnet_backbone"]
    assert [one["arch"] for one in printed["identities"]] == ["R-50", "R-152"]
    # the settings of a detector follow from its kind
    kinds = [ladder(detector=d, detector_settings=d[:2], plus=p) for d, p in (("C4", 0.0), ("FPN", 3.0))]
    for parts in ((ladder(), ladder(arch="R-152", plus=9)), kinds):
        assert "They differ" not in cli("laws", "compare", written(tmp_path / "s.csv", *parts)).stdout
    a, b = read_table(path).series.values()
    assert differences(a, a) == {}
    assert list(differences(a, b)) == ["arch", "detector", "settings"]


def test_compare_asks_for_two_of_the_names_there_are(cli: Cli, tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", ladder(), ladder(max_iter="270000", plus=2), ladder(arch="R-152"))
    told = cli("laws", "compare", path, "R-50", "R-152")
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    assert (
        "R-50 is several laws, which differ in max_iter; name one of 'R-50, max_iter 90000', 'R-50, max_iter 270000', "
        "R-152, or choose rows with --where"
    ) in told.stderr
    for names in ((), ("R-152", "R-152"), ("R-152", "r152"), ("R-152",)):
        assert "name exactly two of them" in cli("laws", "compare", path, *names).stderr
    assert "r.csv has no law 'R-18'; there are 'R-50, max_iter" in cli("laws", "compare", path, "R-152", "R-18").stderr
    chosen = cli("laws", "compare", path, "R-152", "R-50", "--where", "max_iter=90000")
    assert chosen.stdout.startswith("R-152 minus R-50\n")


def test_the_three_commands_choose_alike(cli: Cli, tmp_path: Path) -> None:
    path = written(
        tmp_path / "r.csv", *(ladder(max_iter=m, detector=d) for m in ("90000", "270000") for d in ("C4", "FPN"))
    )
    words = ("--where", "max_iter=90000", "--group", "arch,detector")
    assert "R-50, detector C4 minus R-50, detector FPN" in cli("laws", "compare", path, *words).stdout
    assert list(json.loads(cli("laws", "fit", path, *words, "--json").stdout)["laws"]) == [
        "R-50, detector C4", "R-50, detector FPN",
    ]  # fmt: skip
    forecast = json.loads(cli("laws", "forecast", path, *words, "--images", 128000, "--json").stdout)
    assert forecast["forecasts"]["R-50, detector C4"]["identity"]["max_iter"] == "90000"
    twice = cli("laws", "fit", path, *words, "--where", "max_iter=270000", "--json")
    assert len(json.loads(twice.stdout)["laws"]) == 4
    told = cli("laws", "fit", path, "--where", "max_iter")
    assert (told.returncode, told.stderr) == (
        2, "scaleprior: error: --where 'max_iter' is no COLUMN=VALUE; such as --where max_iter=90000\n",
    )  # fmt: skip


def test_the_picture_calls_laws_by_their_names(cli: Cli, tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", ladder(), ladder(max_iter="270000", plus=2))
    out = tmp_path / "law.svg"
    assert cli("laws", "fit", path, "--out", out).returncode == 0
    text = out.read_text()
    assert "R-50, max_iter 90000 law" in text
    assert "R-50, max_iter 270000 law" in text


def test_long_names_break_in_the_legend_and_stay_whole(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    ax, name = Figure().subplots(), "R-50, detector build_resnet_fpn_backbone+CascadeROIHeads, max_iter 270000"
    draw_law(ax, fit_law([100, 316, 1000, 3162], [2.1, 5.3, 8.8, 11.0]), label=name, forms=False)
    label = next(t.get_text() for t in ax.get_legend().get_texts() if "R-50" in t.get_text())
    assert label.replace("\n", " ") == f"{name} law"
    assert max(map(len, label.splitlines())) <= 42  # its longest word


@pytest.mark.parametrize(("count", "below"), [(2, False), (4, True), (12, True)])
def test_the_legend_names_each_law_once_and_hides_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, below: bool
) -> None:
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: figures.append(self))
    law = fit_law([100, 316, 1000, 3162], [2.1, 5.3, 8.8, 11.0])
    save_laws(tmp_path / "many.png", {f"R-{i}, max_iter 90000": law for i in range(count)})
    (figure,) = figures
    figure.draw_without_rendering()
    (ax,) = figure.axes
    legend = figure.legends[0] if below else ax.get_legend()
    assert legend is not None
    names = [f"R-{i}, max_iter 90000 law" for i in range(count)]
    assert [text.get_text() for text in legend.get_texts()] == [*names, "forecast", "90 % interval"]
    looks = [(line.get_color(), line.get_marker()) for line in legend.get_lines()[:count]]
    assert len(set(looks)) == count
    if below:
        assert legend.get_window_extent().y1 <= ax.get_window_extent().y0
