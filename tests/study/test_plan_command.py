"""``study plan``: the grid, what is done, what is missing and the work, before anything is made or spent."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import scaleprior as sp
from scaleprior.backbones import Card, ResNetSpec, build_resnet, save_backbone, to_detectron2
from scaleprior.backbones.zoo import load_catalogue
from scaleprior.cli import main
from scaleprior.config import data_file, load_config
from scaleprior.errors import UserError
from scaleprior.study import StudySpec, load_spec, plan_study, run_study, study_status
from scaleprior.study.cell import Cell
from scaleprior.study.cells import fine_tuning_work, plan_cells
from scaleprior.study.plan import NO_BACKBONE
from scaleprior.study.prepare import prepare_data
from scaleprior.study.rungs import skip_absent
from tests.detect.conftest import make_coco
from tests.study.conftest import TINY, write_spec
from tests.study.test_arms import NARROW, SLOW, Nothing

DEPTHS = (50, 101, 152)
FRACTIONS = {"jft-10m": 10_000_000, "jft-30m": 30_000_000, "jft-100m": 100_000_000, "jft-300m": 300_000_000}
# Of the paper's grid: (JFT's 12 rungs + ImageNet's 3) x 2 arms, 8 rungs of two depths x 2 arms, 3 depths from scratch.
PAPER_CELLS = {"frozen_bn": 45, "bn": 45, "lr_half": 24, "lr_double": 24, "scratch_3x": 9}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DETECTRON2_DATASETS", "/data")


def small_backbone(path: Path, depth: int, images: int, seed: int = 0) -> Path:
    """A narrow one; it has the paper's pixels."""
    spec = ResNetSpec(depth=depth, norm="BN", width_per_group=4, res2_out_channels=16)
    state = to_detectron2(build_resnet(spec).state_dict())
    state = {name: tensor + 1e-3 * seed for name, tensor in state.items()}
    half = (127.5, 127.5, 127.5)
    save_backbone(path, state, Card(path.stem, spec, half, half, "RGB", images=images))
    return path


def sections(name: str) -> dict[str, Any]:
    """A shipped study."""
    return dict(load_spec(f"studies/{name}.yaml").raw)


def test_the_papers_grid_is_planned_where_nothing_of_it_is_here() -> None:
    """On an engine that is always there; the arms' configs hold on both."""
    spec = load_spec("studies/paper_coco.yaml", ["engine", "torchvision"])
    plan = plan_study(spec, Path("nowhere"))
    assert Counter(cell.arm for cell in plan.cells) == PAPER_CELLS
    assert {cell.state for cell in plan.cells if cell.images} == {NO_BACKBONE}
    assert {cell.state for cell in plan.cells if not cell.images} == {"pending"}
    for cell in plan.cells:
        assert (cell.steps, cell.images_per_step) == (270_000 if cell.arm == "scratch_3x" else 90_000, 16)
    for depth in DEPTHS:
        missing = {rung.weights: rung for rung in (*plan.missing[f"R-{depth}"], *plan.missing[f"R-{depth}-ImageNet"])}
        names = {f"paper-R-{depth}-{corpus}": images for corpus, images in FRACTIONS.items()}
        names[f"paper-R-{depth}-imagenet"] = 1_281_167
        assert {name.split("//")[1]: rung.images for name, rung in missing.items()} == names
        for name, rung in missing.items():
            assert f"scaleprior zoo show {name.split('//')[1]}" in rung.why
            assert load_catalogue().find(name.split("//")[1]).kind == "paper"
    # 138 cells of 90,000 steps and 9 of 270,000, as the file's own words have it
    work = plan.to_dict()["work"]["all"]
    assert (work["cells"], work["finetune_steps"], work["finetune_images"]) == (147, 14_850_000, 237_600_000)
    text = data_file("configs", "studies/paper_coco.yaml").read_text()
    assert "147 cells, 14,850,000 steps of 16 images" in text
    assert plan.rates == {}
    assert set(plan.seconds_left().values()) == {None}


def paper_files(folder: Path) -> dict[str, Any]:
    """The paper's study on small files in place of the zoo's names, and a small set."""
    raw = sections("paper_coco")
    for arch, rungs in raw["backbones"].items():
        for seed, rung in enumerate(rungs):
            name = rung["weights"].split("//")[1]
            entry = load_catalogue().find(name)
            assert entry.images is not None
            small_backbone(folder / f"{name}.safetensors", entry.depth, entry.images, seed + len(arch))
            rung["weights"] = f"{name}.safetensors"
    sets = {role: make_coco(folder / role, 4, side=64, seed=seed) for seed, role in enumerate(("train", "val"))}
    raw["detection"] = {role: {"json": str(path), "images": str(root)} for role, (path, root) in sets.items()}
    return raw


@pytest.mark.parametrize("engine", ["torchvision", pytest.param("detectron2", marks=pytest.mark.detectron2)])
def test_the_papers_study_holds_together_when_its_backbones_are_here(tmp_path: Path, engine: str) -> None:
    """All 147 cells are planned as a run plans them: what their engine or a backbone's card would refuse is refused."""
    if engine == "detectron2":
        pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    spec = StudySpec.from_dict(paper_files(tmp_path), folder=tmp_path)
    spec = replace(spec, seeds=(0,))
    cells = plan_cells(spec, prepare_data(spec, tmp_path / "out", engine=engine), engine)
    assert Counter(cell.arm for cell in cells) == {arm: count // 3 for arm, count in PAPER_CELLS.items()}
    seen = {}
    for cell in cells:
        cfg = cell.finetune_config().cfg
        seen[cell.arm] = (cfg.MODEL.RESNETS.NORM, cfg.MODEL.BACKBONE.FREEZE_AT, cfg.SOLVER.BASE_LR, cfg.SOLVER.STEPS)
        assert cfg.MODEL.ROI_HEADS.NAME == "Res5ROIHeads"
        assert str(cfg.MODEL.RESNETS.DEPTH) == cell.arch.split("-")[1]
    assert seen == {
        "frozen_bn": ("FrozenBN", 2, 0.02, (60_000, 80_000)),
        "bn": ("BN", 0, 0.02, (60_000, 80_000)),
        "lr_half": ("FrozenBN", 2, 0.01, (60_000, 80_000)),
        "lr_double": ("FrozenBN", 2, 0.04, (60_000, 80_000)),
        "scratch_3x": ("GN", 0, 0.02, (210_000, 250_000)),
    }


def test_the_command_ends_with_0_and_names_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["study", "plan", "studies/paper_coco.yaml", "--engine", "torchvision", "seeds", "[0]"]
    assert main([*words, "--seconds-per-step", "0.5", "--seconds-per-step", "R-152=1.5"]) == 0
    shown = capsys.readouterr().out
    assert "49 cells on engine torchvision: 0 done, 46 wait for a backbone" in shown
    assert "- R-101: scaleprior://paper-R-101-jft-30m: not public; `scaleprior zoo show paper-R-101-jft-30m`" in shown
    assert "- R-152 (frozen_bn): 360,000 steps x 1.5 s (given) = 150.0 h" in shown
    assert "- R-50-ImageNet (bn): 90,000 steps x 0.5 s (given) = 12.5 h" in shown
    # 0.5 s x (R-50: 4 arms x 4 rungs; R-101: 2 x 4; ImageNet: 6 cells; scratch: 2 x 3) + 1.5 s x (4 x 4 + 3), of 90,000
    hours = 90_000 * (0.5 * (16 + 8 + 6 + 6) + 1.5 * (16 + 3)) / 3600
    assert f"fine-tuning in all: {hours:,.1f} h on one device" in shown
    assert main([*words, "--seconds-per-step", "R-50=0.5"]) == 0
    shown = capsys.readouterr().out
    assert "= 25.0 h" not in shown.split("R-101 (")[-1]
    assert "Nobody has measured the seconds for R-101, R-152, R-50-ImageNet, R-101-ImageNet, R-152-ImageNet" in shown
    assert main([*words, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [rung["images"] for rung in plan["missing"]][:4] == list(FRACTIONS.values())
    assert plan["rates"] == []
    for wrong, said in (("fast", "is 'fast'"), ("R-18=1", "has 'R-18'"), ("-1", "of R-50 is -1.0"), ("nan", "is nan")):
        assert main([*words, f"--seconds-per-step={wrong}"]) == 2
        assert said in capsys.readouterr().err


def test_a_study_that_pretrains_tells_images_to_see_once_for_all_arms(tmp_path: Path) -> None:
    spec = load_spec(write_spec(tmp_path, arms={"a": {}, "b": SLOW}, seeds=[0, 1]))
    plan = plan_study(spec, tmp_path / "out", engine="torchvision")
    assert not (tmp_path / "out").exists()
    work = plan.to_dict()["work"]["left"]
    # 3 rungs x 2 seeds; 4 steps of 8 images each; cells: 4 x 2 seeds x 2 arms of 3 steps of 2 images
    assert (work["pretrainings"], work["pretrain_steps"], work["pretrain_images"]) == (6, 24, 192)
    assert (work["cells"], work["finetune_steps"], work["finetune_images"]) == (16, 48, 96)


def test_what_is_done_counts_and_its_time_is_what_was_measured(finished: Path, tmp_path: Path) -> None:
    """Of the same cells, by their keys: those of another recipe are to do, and time of theirs is not known."""
    spec = load_spec(write_spec(tmp_path, ladder=[16, 32, 64, 70], seeds=[0, 1]))
    plan = plan_study(spec, finished)
    states = Counter((cell.seed, cell.state) for cell in plan.cells)
    assert states == {(0, "done"): 4, (0, "pending"): 1, (1, "pending"): 5}
    assert sum(run.done for run in plan.pretrainings) == 3
    rate = plan.rates["R-50", ""]
    results = [result for _, result in study_status(finished).finished()]
    assert rate.cells == 4
    assert rate.seconds == pytest.approx(sum(r.seconds["finetune"] for r in results) / (4 * 3))
    evaluation = sum(r.seconds["evaluate"] for r in results) / 4
    own = sum(r.seconds[s] / r.cells_at_once[s] for r in results for s in ("finetune", "evaluate"))  # two at a time
    assert 1.0 < rate.at_once <= 2.0
    assert plan.seconds_left()["R-50", ""] == pytest.approx(6 * (3 * rate.seconds + evaluation) / rate.at_once)
    assert plan.seconds_left()["R-50", ""] == pytest.approx(6 * own / 4)
    seen = sum(r.seconds["pretrain"] / r.cells_at_once["pretrain"] for r in results if r.pretrain is not None) / (
        3 * 32
    )
    assert plan.pretraining_rates == {"R-50": pytest.approx(seen)}
    other = {"finetune": {**TINY["finetune"], "overrides": {**TINY["finetune"]["overrides"], "SOLVER.BASE_LR": 0.01}}}
    changed = plan_study(load_spec(write_spec(tmp_path, **other)), finished)
    assert {cell.state for cell in changed.cells} == {"pending"}
    assert all(run.done for run in changed.pretrainings)  # their backbones serve any recipe of fine-tuning
    given = plan_study(spec, finished, seconds_per_step={"R-50": 2.0})
    assert given.seconds_left() == {("R-50", ""): 36.0}


@pytest.mark.detectron2
def test_a_schedule_for_eight_gpus_is_planned_as_the_one_of_a_cell_takes_it() -> None:
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    words = ["seeds", "[0]", "finetune.overrides.SOLVER.REFERENCE_WORLD_SIZE", "8"]
    plan = plan_study(load_spec("studies/paper_coco.yaml", words), Path("nowhere"))
    work = {(cell.arm == "scratch_3x", cell.steps, cell.images_per_step) for cell in plan.cells}
    assert work == {(False, 720_000, 2), (True, 2_160_000, 2)}
    assert plan.to_dict()["work"]["all"]["finetune_images"] * 3 == 237_600_000


def test_detectron2s_world_size_is_that_of_a_cell() -> None:
    """A config that is meant for 8 GPUs takes eight times the steps on one, for an eighth of the images."""
    cfg = load_config("COCO-Detection/faster_rcnn_R_50_C4.yaml").cfg.clone()
    assert fine_tuning_work(cfg) == (90_000, 16)
    cfg.defrost()
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 8
    assert fine_tuning_work(cfg) == (720_000, 2)


def some_here(folder: Path) -> dict[str, Any]:
    """A study of which one rung is here, one comes by a download and two nobody has."""
    here = small_backbone(folder / "here.safetensors", 50, 1000)
    sets = {role: make_coco(folder / role, 4, side=64, seed=seed) for seed, role in enumerate(("train", "val"))}
    return {
        "name": "some",
        "detection": {role: {"json": str(path), "images": str(root)} for role, (path, root) in sets.items()},
        "architectures": {"A": NARROW, "B": {"MODEL.RESNETS.DEPTH": 101}},
        "backbones": {
            "A": [{"weights": here.name}, {"weights": "gone.safetensors", "images": 5000}, {"weights": "none.pth"}],
            "B": [{"weights": "scaleprior://R-101-imagenet-1k"}],
        },
        "scratch": False,
        "arms": {"plain": {}, "slow": SLOW},
        "finetune": TINY["finetune"],
        "engine": "torchvision",
    }


def test_what_is_here_can_run_without_the_rest(tmp_path: Path) -> None:
    raw = some_here(tmp_path)
    spec = StudySpec.from_dict(raw, folder=tmp_path)
    plan = plan_study(spec, tmp_path / "out")
    rows = [(cell.arch, cell.arm, cell.images, cell.state) for cell in plan.cells]
    assert rows == [
        ("A", "plain", 1000, "pending"), ("A", "plain", 5000, NO_BACKBONE),
        ("A", "slow", 1000, "pending"), ("A", "slow", 5000, NO_BACKBONE),
        ("B", "plain", 1_281_167, NO_BACKBONE), ("B", "slow", 1_281_167, NO_BACKBONE),
    ]  # fmt: skip
    assert [rung.images for rung in plan.missing["A"]] == [5000, None]
    assert plan.missing["B"][0].public
    with pytest.raises(UserError, match=r"^2 things would stop.*\n- backbones.A of 'some': .*gone.safetensors is not"):
        run_study(spec, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    kept, left_out = skip_absent(spec)
    assert {arch: [section.weights for section in rungs] for arch, rungs in kept.backbones.items()} == {
        "A": [str(tmp_path / "here.safetensors")], "B": ["scaleprior://R-101-imagenet-1k"],
    }  # fmt: skip
    assert [Path(rung.weights).name for rung in left_out["A"]] == ["gone.safetensors", "none.pth"]
    local = StudySpec.from_dict(
        {**raw, "architectures": {"A": NARROW}, "backbones": {"A": raw["backbones"]["A"]}}, folder=tmp_path
    )
    started: list[Path] = []
    outcome = run_study(local, tmp_path / "out", executor=Nothing(started), check=False, skip_missing=True)
    assert [(c.cell.arm, c.cell.images) for c in outcome.view.cells] == [("plain", 1000), ("slow", 1000)]
    assert outcome.view.facts["left out of A, not here"].endswith("none.pth")
    assert "skip_missing=True" in outcome.view.facts["command"]
    small_backbone(tmp_path / "gone.safetensors", 50, 5000, seed=1)  # it came
    again = run_study(local, tmp_path / "out", executor=Nothing(started), check=False, skip_missing=True)
    assert [c.cell.images for c in again.view.cells] == [1000, 5000, 1000, 5000]


def test_leaving_out_needs_something_to_leave_out_and_something_to_keep(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"skip_missing: .* lists no backbones, it pretrains them"):
        run_study(load_spec(write_spec(tmp_path)), tmp_path / "out", skip_missing=True)
    paper = load_spec("studies/paper_coco.yaml", ["engine", "torchvision", "scratch", "false", "arms", "{}"])
    with pytest.raises(UserError, match=r"no backbone of .*paper_coco.yaml is here; `scaleprior study plan .*yaml`"):
        run_study(paper, tmp_path / "out", skip_missing=True)
    assert not (tmp_path / "out").exists()


def test_a_plan_from_python(tmp_path: Path) -> None:
    study = sp.Study(TINY, folder=tmp_path)
    plan = study.plan(tmp_path / "out", engine="torchvision", seconds_per_step=0.25)
    assert plan.seconds_left() == {("R-50", ""): 3.0}  # 4 cells of 3 steps
    assert {cell.state for cell in plan.cells} == {"pending"}
    assert isinstance(plan.to_dict()["cells"][0]["seed"], int)
    assert Cell.__dataclass_fields__["arm"].default == ""


def test_from_scratch_can_run_before_any_backbone_came(tmp_path: Path) -> None:
    raw = some_here(tmp_path)
    only_gone = {"architectures": {"A": NARROW}, "backbones": {"A": [{"weights": "gone.safetensors"}]}, "arms": {}}
    spec = StudySpec.from_dict({**raw, **only_gone, "scratch": True}, folder=tmp_path)
    outcome = run_study(spec, tmp_path / "out", executor=Nothing([]), check=False, skip_missing=True)
    assert [c.cell.images for c in outcome.view.cells] == [0]


def test_an_architecture_may_be_without_any_of_its_backbones(tmp_path: Path) -> None:
    raw = some_here(tmp_path)
    raw["backbones"]["B"] = [{"weights": "gone_too.safetensors"}]
    spec = StudySpec.from_dict(raw, folder=tmp_path)
    outcome = run_study(spec, tmp_path / "out", executor=Nothing([]), check=False, skip_missing=True)
    assert {(c.cell.arch, c.cell.images) for c in outcome.view.cells} == {("A", 1000)}
