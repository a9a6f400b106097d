"""Arms: several ways of fine-tuning beside each other in one study, each with its own cells, rows and laws."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import scaleprior as sp
from scaleprior.errors import UserError
from scaleprior.laws import compare_laws, fit_table, read_table
from scaleprior.study import load_spec, run_study, study_status
from scaleprior.study.cell import Cell
from scaleprior.study.cells import plan_cells
from scaleprior.study.check import check_study
from scaleprior.study.prepare import StudyData, describe_data, prepare_data
from scaleprior.study.report.summary import write_results
from scaleprior.study.runner import _in_order
from scaleprior.study.view import CellStatus
from scaleprior.study.worker import run_cell
from tests.study.conftest import TINY, results_of, write_spec
from tests.study.test_cells import TINY_CELLS

SLOW = {"overrides": {"SOLVER.BASE_LR": 0.01}}
LONG = "SOLVER: {MAX_ITER: 5, STEPS: [4]}\n"
NARROW = {"MODEL.RESNETS.RES2_OUT_CHANNELS": 16, "MODEL.RESNETS.WIDTH_PER_GROUP": 4}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny study's data lie; they are the same for every plan."""
    return tmp_path_factory.mktemp("made")


def without(*keys: str) -> dict[str, Any]:
    """The tiny study's fine-tuning, with ``keys`` left to its config."""
    overrides = {key: value for key, value in TINY["finetune"]["overrides"].items() if key not in keys}
    return {"finetune": {**TINY["finetune"], "overrides": overrides}}


def plan(folder: Path, made: Path, arms: Any, **changes: Any) -> list[Cell]:
    spec = load_spec(write_spec(folder, **({} if arms is None else {"arms": arms}), **changes))
    return plan_cells(spec, prepare_data(spec, made), "torchvision")


def test_a_cell_an_arm_and_without_arms_the_cells_of_ever(tmp_path: Path, made: Path) -> None:
    """Of every arm the plain one's cells are those of the study without arms, by their keys."""
    for nothing in (None, {}):
        assert [(cell.key, cell.arm) for cell in plan(tmp_path, made, nothing)] == [(k, "") for k in TINY_CELLS]
    cells = plan(tmp_path, made, {"plain": None, "slow": SLOW})
    assert [(c.arm, c.images) for c in cells] == [(a, n) for a in ("plain", "slow") for n in (0, 16, 32, 64)]
    assert [cell.key for cell in cells[:4]] == TINY_CELLS
    assert not {cell.key for cell in cells[4:]} & set(TINY_CELLS)
    assert cells[5].folder_name == f"R-50-16-slow-seed0-{cells[5].key[:8]}"
    assert [cell.pretraining for cell in cells[4:]] == [cell.pretraining for cell in cells[:4]]
    assert cells[5].backbone_name == cells[1].backbone_name
    rates = [cell.finetune_config().cfg.SOLVER.BASE_LR for cell in cells]
    assert rates == [0.04] * 4 + [0.01] * 4


def test_files_stand_below_keys_and_the_most_particular_key_wins(tmp_path: Path, made: Path) -> None:
    (tmp_path / "long.yaml").write_text(LONG)
    (tmp_path / "longer.yaml").write_text("_BASE_: long.yaml\nSOLVER: {MAX_ITER: 6}\n")
    changes = without("SOLVER.MAX_ITER", "SOLVER.WARMUP_ITERS")
    changes["architectures"] = {"R-50": {"MODEL.RESNETS.DEPTH": 50, "SOLVER.BASE_LR": 0.03, "SOLVER.WARMUP_ITERS": 2}}
    arms = {
        "plain": {},
        "files": {"pieces": ["long.yaml", "longer.yaml"]},
        "keys": {"pieces": ["longer.yaml", "COCO-Detection/Arm-LR-double.yaml"],
                 "overrides": {"SOLVER": {"MAX_ITER": 7, "BASE_LR": 0.02}}},
    }  # fmt: skip
    found = {}
    for cell in plan(tmp_path, made, arms, **changes):
        cell.save(tmp_path)
        solver = Cell.load(tmp_path).finetune_config().cfg.SOLVER
        found[cell.arm] = solver.MAX_ITER, solver.STEPS, solver.BASE_LR, solver.WARMUP_ITERS
    assert found["plain"] == (80, (30000,), 0.03, 2)
    assert found["files"] == (6, (4,), 0.03, 2)
    assert found["keys"] == (7, (4,), 0.02, 2)


def test_from_scratch_may_have_an_arm_of_its_own(tmp_path: Path, made: Path) -> None:
    """... and arms may be for some architectures; what they do not take is in no cell."""
    other = {"MODEL.RESNETS.DEPTH": 101}
    arms = {
        "fine": {"only": "pretrained"},
        "raw": {"only": "scratch", "architectures": ["R-50"], **SLOW},
        "both": {"architectures": ["R-101"], "overrides": {"SOLVER.BASE_LR": 0.02}},
    }
    cells = plan(tmp_path, made, arms, ladder=[16], architectures={**TINY["architectures"], "R-101": other})
    assert [(cell.arch, cell.arm, cell.images) for cell in cells] == [
        ("R-50", "fine", 16), ("R-50", "raw", 0), ("R-101", "fine", 16), ("R-101", "both", 0), ("R-101", "both", 16),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ([1], r"arms is \[1\], expected a section"),
        ({"a b": {}}, "arms.a b: 'a b' is no name of an arm; give letters"),
        ({"../up": {}}, "'../up' is no name of an arm"),
        ({3: {}}, "arms.3: 3 is no name of an arm"),
        ({"a": [1]}, r"arms.a is \[1\]; write {pieces"),
        ({"a": {"piece": []}}, r"unknown key 'piece' in section arms\[\]; did you mean 'pieces'"),
        ({"a": {"pieces": "x.yaml"}}, "arms.a.pieces is 'x.yaml'; list files"),
        ({"a": {"only": "raw"}}, "arms.a.only is 'raw'; write scratch or pretrained"),
        ({"a": {"architectures": ["R-18"]}}, r"arms.a.architectures is \['R-18'\]; list some of R-50"),
        ({"a": {"architectures": []}}, r"arms.a.architectures is \[\]"),
        ({"a": {"overrides": {"SEED": 3}}}, "arms.a.overrides sets SEED to 3, which the study itself .*; say it under"),
        ({"a": {"only": "scratch"}}, "no arm fine-tunes R-50 from pretrained backbones"),
        ({"a": {"pieces": ["nowhere.yaml"]}}, r"arms.a: no file nowhere.yaml in ScalePrior's configs/; there are"),
        ({"a": {"pieces": ["seed.yaml"]}}, r"arms.a: .*seed.yaml sets SEED to 4, which .*; say it under seeds"),
        (
            {"a": {"pieces": ["COCO-Detection/Base-Data-paper.yaml"]}},
            "Base-Data-paper.yaml sets DATASETS.TRAIN to .*; say it under detection",
        ),
        (
            {"a": {"pieces": ["COCO-Detection/Base-Schedule-3x.yaml"]}},
            "sets SOLVER.IMS_PER_BATCH to 16, finetune.overrides to 2, which would win; say under arms.a.overrides",
        ),
        (
            {"a": {"pieces": ["deep.yaml"]}},
            "deep.yaml sets MODEL.RESNETS.DEPTH to 101, architectures.R-50 to 50, which would win",
        ),
        (
            {"a": {"overrides": {"MODEL.WEIGHTS": "x.pth"}}},
            "arms.a.overrides sets MODEL.WEIGHTS to 'x.pth', and every cell",
        ),
        ({"a": {"pieces": ["weights.yaml"]}}, r"arms.a: .*weights.yaml sets MODEL.WEIGHTS to 'x.pth', and every cell"),
        ({"a": {}, "b": {}}, "arms 'a' and 'b' of .* come to the same config for architecture R-50"),
        # said by another word, and a key that is set to what it is anyway: the same detector
        ({"a": {}, "b": {"overrides": {"SOLVER.GAMMA": 0.1}}}, "arms 'a' and 'b' of .* come to the same config"),
        ({"a": {"overrides": {"SOLVER.LR_SCHEDULER_NAME": "Cyclic"}}}, "architecture R-50, arm a: SOLVER.LR_SCHED"),
        ({"a": {"overrides": {"SOLVER.MAX_ITR": 1}}}, "architecture R-50, arm a: unknown config key SOLVER.MAX_ITR"),
    ],
)
def test_what_an_arm_may_not_say_is_refused_before_anything_trains(
    tmp_path: Path, made: Path, arms: Any, message: str
) -> None:
    (tmp_path / "weights.yaml").write_text("MODEL: {WEIGHTS: x.pth}\n")
    (tmp_path / "seed.yaml").write_text("SEED: 4\n")
    (tmp_path / "deep.yaml").write_text("MODEL: {RESNETS: {DEPTH: 101}}\n")
    with pytest.raises(UserError, match=message) as caught:
        plan(tmp_path, made, arms)
    assert "tiny.yaml" in str(caught.value)


def test_a_cell_whose_folder_has_too_long_a_name_is_known_before_anything_runs(tmp_path: Path, made: Path) -> None:
    """Architecture, images, arm, seed and key together."""
    long = {"a" * 120: {"MODEL.RESNETS.DEPTH": 50}}
    with pytest.raises(UserError, match=r"arm b+: the folder of a cell has 2\d\d characters, too many for a file's"):
        plan(tmp_path, made, {"b" * 120: {}}, architectures=long)


def test_an_architecture_in_no_arm_and_arms_without_cells_are_refused(tmp_path: Path, made: Path) -> None:
    two = {**TINY["architectures"], "R-101": {"MODEL.RESNETS.DEPTH": 101}}
    with pytest.raises(UserError, match="no arm fine-tunes R-101 from pretrained"):
        load_spec(write_spec(tmp_path, arms={"a": {"architectures": ["R-50"]}}, architectures=two))
    with pytest.raises(UserError, match=r"arms\.b has no cells: only is 'scratch', scratch is false"):
        load_spec(write_spec(tmp_path, arms={"a": {}, "b": {"only": "scratch"}}, scratch=False))
    with pytest.raises(UserError, match="scratch is true, every arm has only 'pretrained'"):
        load_spec(write_spec(tmp_path, arms={"a": {"only": "pretrained"}}, scratch=True))
    with pytest.raises(UserError, match=r"'A' and 'B' .* same network; .* out of the architectures of arm a"):
        plan(tmp_path, made, {"a": {}}, architectures={"A": {}, "B": {}})


def test_arms_are_looked_at_before_anything_is_made(tmp_path: Path) -> None:
    """All that is wrong at once; and of the disk, backbones are counted once for all arms."""
    wrong = {"a": {"overrides": {"SOLVER.MAX_ITR": 1}}, "b": {"pieces": ["nowhere.yaml"]}}
    found = check_study(load_spec(write_spec(tmp_path, arms=wrong)), tmp_path / "out").of("config")
    assert ["no file nowhere.yaml" in finding.what for finding in found] == [True]
    held = {}
    for name, arms in (("none", None), ("one", {"a": {}}), ("two", {"a": {}, "b": SLOW})):
        spec = load_spec(write_spec(tmp_path, **({"arms": arms} if arms else {}), scratch=False))
        report = check_study(spec, tmp_path / "out")
        assert report.ok, report.findings
        held[name] = float(report.facts["disk"].split("will hold ")[1].split()[0])
    assert held["one"] == held["none"]
    assert held["none"] < held["two"] < 2 * held["none"]


def test_cells_of_versions_without_arms_are_read(tmp_path: Path, made: Path) -> None:
    cell = plan(tmp_path, made, None)[1]
    raw = cell.to_dict()
    del raw["arm"], raw["finetune"]["pieces"], raw["pretrain"]["pieces"]
    (tmp_path / "cell.json").write_text(json.dumps(raw))
    assert Cell.load(tmp_path) == cell


def test_no_process_waits_for_a_backbone_while_another_could_be_pretrained(tmp_path: Path, made: Path) -> None:
    cells = plan(tmp_path, made, {"a": {}, "b": SLOW, "c": {"overrides": {"SOLVER.MAX_ITER": 30}}}, ladder=[16, 32])
    order = [s.cell for s in _in_order([CellStatus(cell, tmp_path, "pending") for cell in cells])]
    begun = [cell.pretraining for cell in order]
    assert len([*filter(None, begun[:5])]) == 2  # each backbone once, beside the three cells from scratch
    assert order[0].arm == "c"  # ten times the steps of the others: the longest
    plain = plan(tmp_path, made, None)
    assert [round(cell.cost) for cell in plain] == [50, 100, 100, 100]  # as ever


def test_a_finished_study_takes_arms_later(finished: Path, tmp_path: Path) -> None:
    """Its cells become those of the plain arm; nothing of them is run again."""
    out = tmp_path / "out"
    shutil.copytree(finished, out, symlinks=True)
    spec = load_spec(write_spec(tmp_path, arms={"plain": {}, "slow": {"only": "pretrained", **SLOW}}, ladder=[16, 32]))
    started: list[Path] = []
    outcome = run_study(spec, out, executor=Nothing(started), check=False)
    states = {(c.cell.arm, c.cell.images): c.state for c in outcome.view.cells}
    assert states == {
        ("plain", 0): "done", ("plain", 16): "done", ("plain", 32): "done",
        ("slow", 16): "failed", ("slow", 32): "failed",
    }  # fmt: skip
    assert len(started) == 2
    assert all("-slow-seed0-" in folder.name for folder in started)

    # neither is it when the arm has another name, nor when the arms go again
    renamed = load_spec(write_spec(tmp_path, arms={"usual": {}, "other": {"only": "pretrained", **SLOW}}, ladder=[16]))
    started.clear()
    view = run_study(renamed, out, executor=Nothing(started), check=False).view
    assert {(c.cell.arm, c.cell.images) for c in view.cells if c.state == "done"} == {("usual", 0), ("usual", 16)}
    assert [folder.name for folder in started] == [f"R-50-16-slow-seed0-{view.cells[-1].cell.key[:8]}"]
    run_study(load_spec(write_spec(tmp_path, ladder=[16])), out, executor=Nothing(started), check=False)
    assert len(started) == 1


class Nothing:
    """Starts cells that leave no result."""

    def __init__(self, started: list[Path]) -> None:
        self.started = started

    def run(
        self, folders: Sequence[Path], *, on_start: Callable[[Path], None], on_poll: Callable[[], None]
    ) -> Iterator[tuple[Path, int]]:
        for folder in folders:
            on_start(folder)
            self.started.append(folder)
            yield folder, 1


class Forks:
    """The worker in forks of this process, one after the other: nothing is imported twice."""

    def run(
        self, folders: Sequence[Path], *, on_start: Callable[[Path], None], on_poll: Callable[[], None]
    ) -> Iterator[tuple[Path, int]]:
        for folder in folders:
            on_start(folder)
            if (child := os.fork()) == 0:
                code = 70
                try:
                    code = run_cell(folder)
                finally:
                    os._exit(code)
            yield folder, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def grid(**changes: Any) -> dict[str, Any]:
    """Two architectures, two rungs, two seeds and two arms."""
    architectures = {f"R-{depth}": {"MODEL.RESNETS.DEPTH": depth, **NARROW} for depth in (50, 101)}
    arms = {"plain": {"only": "pretrained"}, "slow": SLOW}
    return {"architectures": architectures, "arms": arms, "ladder": [16, 32], "seeds": [0, 1], **changes}


@pytest.fixture(scope="module")
def armed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study with arms."""
    folder = tmp_path_factory.mktemp("armed")
    study = sp.Study({**TINY, **grid()}, folder=folder)
    study.run(folder / "out", executor=Forks(), check=False).report().write(folder / "out")
    return folder / "out"


@pytest.mark.slow
def test_a_grid_with_arms_runs_to_the_end(armed: Path) -> None:
    with (armed / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = [(r["arch"], r["arm"], int(r["images"]), int(r["seed"])) for r in rows]
    kinds = [("plain", (16, 32)), ("slow", (0, 16, 32))]
    archs, seeds = ("R-50", "R-101"), (0, 1)
    assert found == [(a, arm, n, s) for a in archs for arm, ladder in kinds for n in ladder for s in seeds]
    assert list(rows[0])[-1] == "arm"
    assert len({row["cell"] for row in rows}) == len(rows) == 20
    backbones = list((armed / "pretrained").iterdir())
    assert len(backbones) == 2 * 2 * 2  # once for both arms
    assert {c.folder.name.rsplit("-seed", 1)[0] for c in study_status(armed).cells} >= {"R-50-16-plain", "R-50-16-slow"}
    status = study_status(armed).cells[0].to_dict()
    assert (status["arm"], status["arch"]) == ("plain", "R-50")


@pytest.mark.slow
def test_a_plan_takes_the_time_of_every_arm_for_its_own(armed: Path) -> None:
    """Pretraining was done by the first arm that came; the other only looked at what was there."""
    plan = sp.Study({**TINY, **grid()}, folder=armed.parent).plan(armed)
    assert {cell.state for cell in plan.cells} == {"done"}
    assert {group: rate.cells for group, rate in plan.rates.items()} == {
        (arch, arm): count for arch in ("R-50", "R-101") for arm, count in (("plain", 4), ("slow", 6))
    }
    assert all(run.done for run in plan.pretrainings)
    assert len(plan.pretrainings) == 8
    for arch, seconds in plan.pretraining_rates.items():
        first = [r for c, r in study_status(armed).finished() if (c.arch, c.arm) == (arch, "plain")]
        assert seconds == pytest.approx(sum(r.seconds["pretrain"] for r in first) / (4 * 32))


@pytest.mark.slow
def test_the_plain_arm_measures_what_the_study_without_arms_does(armed: Path, tmp_path: Path) -> None:
    """The same bytes but for the new column."""
    study = sp.Study({**TINY, **grid(arms={}, seeds=[1], ladder=[32], scratch=False)})
    study.run(tmp_path / "out", executor=Forks(), check=False).report().write(tmp_path / "out")
    plain = (tmp_path / "out" / "results.csv").read_text().splitlines()
    with_arms = (armed / "results.csv").read_text().splitlines()
    assert with_arms[0] == f"{plain[0]},arm"
    assert {f"{line},plain" for line in plain[1:]} < set(with_arms)


@pytest.mark.slow
def test_the_report_keeps_arms_apart(armed: Path) -> None:
    study = sp.Study.open(armed)
    report = study.report()
    assert report.header() == ("arm", "pretraining images", "R-50", "R-101")
    assert [row[:2] for row in report.table()] == [
        ("plain", "16"), ("plain", "32"), ("slow", "0 (scratch)"), ("slow", "16"), ("slow", "32")
    ]  # fmt: skip
    assert [summary.title for summary in report.summaries] == [
        "R-50 (plain)", "R-50 (slow)", "R-101 (plain)", "R-101 (slow)"
    ]  # fmt: skip
    table = study.results("arrow")
    assert table.column_names[-1] == "arm"
    assert str(table.schema.field("arm").type) == "string"
    assert set(report.to_dict()["laws"]) == {summary.title for summary in report.summaries}
    for page in (report.html(), report.markdown(), report._repr_html_()):
        assert "arm" in page
        assert "slow" in page
    spent = [json.loads(f.read_text())["cpu"]["pretrain"] for f in (armed / "pretrained").glob("*/seconds.json")]
    assert len(spent) == 8
    assert report.seconds["pretrain"] == pytest.approx(sum(spent))
    assert any(s.startswith("R-101: pretraining on 32 images in arm plain gives AP ") for s in report.sentences)
    for sentence in report.sentences:  # both names wherever numbers of two arms meet
        assert ("plain" in sentence) + ("slow" in sentence) in ((2,) if "recipes differ" in sentence else (1,))


def test_every_arm_has_its_laws_and_architectures_are_compared_within_one(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers that this test made up: each arm another slope, which a law across arms would lose."""
    from scaleprior.study.report.page import build_report
    from scaleprior.study.report.terminal import print_status, print_summary

    view = study_status(finished)
    done = next(status for status in view.cells if status.cell.images)
    assert done.result is not None
    slopes = {("A", "one"): 1.0, ("A", "two"): 2.0, ("B", "one"): 4.0, ("B", "two"): 0.5}
    cells = []
    for (arch, arm), slope in slopes.items():
        for decade in range(2, 6):
            for seed in (0, 1):
                ap = 20 + slope * decade + 0.02 * seed * (-1) ** decade
                detection = replace(done.result.detection, ap=ap)
                cell = replace(done.cell, key=f"{len(cells):016}", arch=arch, arm=arm, images=10**decade, seed=seed)
                cells.append(replace(done, cell=cell, result=replace(done.result, detection=detection)))
    raw = replace(done.cell, key="raw", arch="A", arm="raw", images=0)
    cells.append(replace(done, cell=raw, result=replace(done.result, detection=replace(done.result.detection, ap=15))))
    view = replace(view, cells=tuple(cells))
    report = build_report(view)
    laws = {summary.title: summary.law for summary in report.summaries}
    for (arch, arm), slope in slopes.items():
        law = laws[f"{arch} ({arm})"]
        assert law is not None
        assert law.per_decade.value == pytest.approx(slope, abs=0.2)
    assert laws["A (raw)"] is None
    write_results(view, tmp_path / "results.csv")
    of_file = fit_table(read_table(tmp_path / "results.csv"))
    fitted = [law.per_decade for law in laws.values() if law is not None]
    assert sorted(law.per_decade.value for law in of_file.values()) == pytest.approx(sorted(g.value for g in fitted))
    assert "The laws are fitted together: noise" in " ".join(report.notes)
    one, other = laws["A (one)"], laws["B (one)"]
    assert one is not None
    assert other is not None
    within = f"arm one: {compare_laws(other, one, names=('B', 'A')).verdict}"
    assert within in report.sentences
    compared = [s for s in report.sentences if s.startswith("arm ")]
    assert len(compared) == 2
    assert "A (raw): AP 15.00 from scratch." in report.sentences
    assert not any("A (raw): no law" in s for s in report.sentences)
    figure = report.figure()
    panels = figure.axes
    (legend,) = figure.legends
    named = ["A law", "B law", "A (raw) from scratch", "forecast", "90 % interval of a new run"]
    assert [text.get_text() for text in legend.get_texts()] == named
    assert [panel.get_title("left") for panel in panels] == ["tiny: one", "tiny: two", "AP per tenfold images"]
    for panel in panels[:2]:
        assert panel.get_legend() is None
        low, high = panel.get_ylim()
        assert low < 15 < 40 < high  # the same scale in both, and all of it in sight
    assert len(report._repr_html_()) < 300_000
    print_summary(report, tmp_path / "report.html")
    print_status(view)
    shown = capsys.readouterr().out
    assert "A (two) 100 images seed 0" in shown
    assert [line.split()[1] for line in shown.splitlines() if "30.00" in line or " 40.0" in line]


@pytest.mark.parametrize("arms", [("",), ("one",), ("one", "two", "three", "four")])
def test_the_picture_shows_points_without_a_law_and_tells_eight_architectures_apart(arms: tuple[str, ...]) -> None:
    """As ImageNet's beside the paper's ladder: fewer images than any rung, and an AP below them all."""
    from matplotlib.figure import Figure

    from scaleprior.laws import fit_law
    from scaleprior.study.report.picture import draw_study
    from scaleprior.study.report.summary import ArchSummary, Point

    ladder = tuple(Point(n, (0,), (30.0 + i,)) for i, n in enumerate((10**7, 10**8, 10**9)))
    law = fit_law([p.images for p in ladder], [p.aps[0] for p in ladder], unit="percent")
    beside = (Point(1_281_167, (0, 1), (20.0, 21.0)),)
    summaries = [ArchSummary("R-50", Point(0, (0,), (9.0,)), ladder, law, "", arm) for arm in arms]
    summaries += [ArchSummary(f"I-{i}", None, beside, None, "one rung", arm) for i in range(7) for arm in arms]
    figure: Figure = draw_study(summaries, title="t")
    *panels, _ = figure.axes
    assert len(panels) == len(arms)
    for panel in panels:
        (left, right), (low, high) = panel.get_xlim(), panel.get_ylim()
        assert left < 1_281_167 < 10**10 < right
        assert low < 9.0 < 32.0 < high
        assert panel.xaxis.get_major_formatter()(10**7, 0) == "10M"
    (legend,) = figure.legends
    assert legend.get_texts()[0].get_text() == "R-50 law"
    assert legend.get_texts()[-3].get_text() == "R-50 from scratch"
    colours = [line.get_color() for line in legend.get_lines()[:-1]]  # without the forecasts' dashes
    assert len(colours) == 9
    assert len(set(colours)) == 8
    if len(arms) == 4:
        assert len({round(panel.get_subplotspec().colspan.start) for panel in panels}) == 2


def test_the_settings_name_every_arm(tmp_path: Path, made: Path) -> None:
    arms = {"plain": {}, "raw": {"only": "scratch", "architectures": ["R-50"], **SLOW}}
    spec = load_spec(write_spec(tmp_path, arms=arms))
    data: StudyData = prepare_data(spec, made)
    facts = describe_data(spec, data, "torchvision")
    assert facts["arm plain"] == "the fine-tuning recipe as it is"
    assert facts["arm raw"] == "SOLVER.BASE_LR 0.01; from scratch only; R-50 only"


def test_results_of_a_study_without_arms_are_what_they_were(finished: Path) -> None:
    head, *lines = results_of(finished, 0, 16, 32, 64).decode().splitlines()
    assert head == "arch,images,seed,ap,ap50,ap75,ap_small,ap_medium,ap_large,engine,cell,images_seen"
    assert [line.split(",")[-2] for line in lines] == TINY_CELLS


@pytest.mark.slow
@pytest.mark.detectron2
def test_a_grid_with_arms_runs_on_detectron2(tmp_path: Path) -> None:
    """Also by a piece with a key that only Detectron2 has: a schedule that is meant for two processes."""
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    (tmp_path / "two.yaml").write_text("SOLVER: {REFERENCE_WORLD_SIZE: 2}\n")
    arms = {"plain": {"only": "pretrained"}, "two": {"only": "pretrained", "pieces": ["two.yaml"]}}
    short = {**TINY["finetune"], "overrides": {**TINY["finetune"]["overrides"], "SOLVER.MAX_ITER": 1}}
    few: dict[str, Any] = {"arms": arms, "ladder": [16], "seeds": [0], "finetune": short, "engine": "detectron2"}
    study = sp.Study({**TINY, **grid(**few)}, folder=tmp_path)
    study.run(tmp_path / "out", executor=Forks(), check=False).report().write(tmp_path / "out")
    rows = study.results("arrow").to_pylist()
    assert len(rows) == 2 * 2
    assert {(row["engine"], row["arm"]) for row in rows} == {("detectron2", "plain"), ("detectron2", "two")}
    assert len(list((tmp_path / "out" / "pretrained").iterdir())) == 2
    planned = {(cell.arm, cell.steps, cell.images_per_step) for cell in study.plan().cells}
    assert planned == {("plain", 1, 2), ("two", 2, 1)}
    for status in study.status().cells:
        lines = (status.folder / "finetune" / "metrics.json").read_text().splitlines()
        assert json.loads(lines[-1])["iteration"] + 1 == {"plain": 1, "two": 2}[status.cell.arm]
