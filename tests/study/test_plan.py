"""What a study refuses when its cells are planned: before any of them has cost anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import scaleprior as sp
from scaleprior.backbones import read_card
from scaleprior.config import data_file
from scaleprior.errors import UserError
from scaleprior.study import load_spec
from scaleprior.study.cells import plan_cells
from scaleprior.study.prepare import prepare_data
from tests.corpus.pictures import class_folders
from tests.detect.conftest import make_coco
from tests.study.conftest import TINY, run_study_command, write_spec

CLIP = {"MODEL.BACKBONE.NAME": "build_timm_fpn_backbone", "MODEL.TIMM.MODEL": "resnet50_clip"}


def overridden(stage: str, **changes: Any) -> dict[str, Any]:
    """A stage of the tiny study with changed overrides; "__" stands for "."."""
    words = {key.replace("__", "."): value for key, value in changes.items()}
    return {stage: {**TINY[stage], "overrides": {**TINY[stage]["overrides"], **words}}}


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny study's data lie; they are the same for every plan."""
    return tmp_path_factory.mktemp("planned")


def plan(tmp_path: Path, data: Path, engine: str = "torchvision", **changes: Any) -> list[Any]:
    spec = load_spec(write_spec(tmp_path, **changes))
    return plan_cells(spec, prepare_data(spec, data), engine)


def test_the_tiny_study_is_planned(tmp_path: Path, planned: Path) -> None:
    assert [cell.images for cell in plan(tmp_path, planned)] == [0, 16, 32, 64]


def test_whether_there_is_a_gpu_is_settled_where_the_cell_runs(tmp_path: Path, planned: Path) -> None:
    """Whoever plans need not have the GPU that the executor's machines have."""
    assert plan(tmp_path, planned, **overridden("pretrain", PRETRAIN__AMP="bf16"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            overridden("pretrain", MODEL__PIXEL_MEAN=[1.0, 2.0, 3.0], MODEL__PIXEL_STD=[1.0, 1.0, 1.0]),
            r"contradicts the card of backbone the planned backbone: MODEL.PIXEL_MEAN is \[127.5, .*"
            r"use MODEL.PIXEL_MEAN '\[1.0, 2.0, 3.0\]'",
        ),
        (overridden("pretrain", INPUT__FORMAT="BGR") | overridden("finetune", INPUT__FORMAT="RGB"), "INPUT.FORMAT BGR"),
        (overridden("pretrain", MODEL__RESNETS__WIDTH_PER_GROUP=8), "use MODEL.RESNETS.WIDTH_PER_GROUP 8"),
        (overridden("pretrain", PRETRAIN__AMP="bf16", MODEL__DEVICE="cpu"), r'PRETRAIN.AMP is "bf16" on a CPU'),
        (overridden("pretrain", PRETRAIN__BATCH_SIZE=0), "PRETRAIN.BATCH_SIZE is 0"),
        (overridden("pretrain", MODEL__WEIGHTS="none.safetensors"), "weights not found: .*none.safetensors"),
        (
            overridden("finetune", SOLVER__LR_SCHEDULER_NAME="Cyclic"),
            "SOLVER.LR_SCHEDULER_NAME is 'Cyclic'; that needs",
        ),
        ({"architectures": {"R-50": {"MODEL.RESNETS.NORM": "FrozenBN"}}}, "NORM is 'FrozenBN': pretraining needs"),
        ({"ladder": [16, 80]}, "80 images to train on and the last 8 to evaluate on overlap in a corpus of 80"),
        (overridden("pretrain", PRETRAIN__HELD_OUT__IMAGES=17), "64 images to train on and the last 17 .* of 80"),
    ],
)
def test_what_a_stage_would_refuse_is_refused_by_the_plan(
    tmp_path: Path, planned: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=rf"tiny.yaml: architecture R-50: .*{message}"):
        plan(tmp_path, planned, **changes)


def test_a_share_of_the_corpus_beside_the_ladder_is_refused(tmp_path: Path, planned: Path) -> None:
    (tmp_path / "share.yaml").write_text("_BASE_: " + str(data_file("configs", TINY["pretrain"]["config"])) + "\n"
                                         "PRETRAIN: {FRACTION: {RATIO: 0.5}}\n")  # fmt: skip
    pretrain = {**TINY["pretrain"], "config": "share.yaml"}
    with pytest.raises(UserError, match=r"R-50: PRETRAIN.FRACTION has IMAGES 16 and RATIO 0.5; set one of them"):
        plan(tmp_path, planned, pretrain=pretrain)


def test_study_run_ends_with_exit_code_2_and_trains_nothing(tmp_path: Path) -> None:
    """A trunk for fine-tuning alone: until now the ladder pretrained plain ResNets, and was refused afterwards."""
    finetune = {**TINY["finetune"], "overrides": {**TINY["finetune"]["overrides"], **CLIP}}
    run = run_study_command(write_spec(tmp_path, finetune=finetune), tmp_path / "out", "--jobs", "1")
    assert run.returncode == 2
    (line,) = [text for text in run.stderr.splitlines() if "error" in text]
    assert "architecture R-50: " in line
    assert "MODEL.BACKBONE.NAME" in line
    assert not list((tmp_path / "out").glob("cells/*/pretrain"))
    assert not (tmp_path / "out" / "results.csv").exists()


CONVNEXT = {
    "MODEL.BACKBONE.NAME": "build_timm_fpn_backbone", "MODEL.TIMM.MODEL": "convnext_tiny", "MODEL.RESNETS.NORM": "LN"
}  # fmt: skip
CROPS = {"PRETRAIN__INPUT__SIZE": 32, "PRETRAIN__INPUT__RESIZE": 32}


@pytest.mark.slow
def test_one_line_of_overrides_names_a_trunk_for_both_stages(tmp_path: Path) -> None:
    """A ladder of one's own for a trunk that no MODEL.RESNETS describes, from the corpus to the AP."""
    changes = overridden("pretrain", **CROPS)
    spec = write_spec(tmp_path, architectures={"ConvNeXt-T": CONVNEXT}, ladder=[16], scratch=False, **changes)
    run = run_study_command(spec, tmp_path / "out", "--jobs", "1")
    assert run.returncode == 0, run.stderr
    (cell,) = (tmp_path / "out" / "cells").iterdir()
    card = read_card(cell / "pretrain" / "backbone.safetensors")
    assert (card.arch.name, card.norm, card.images) == ("convnext_tiny", "LN", 16)
    tensors = load_file(cell / "finetune" / "model.safetensors")
    assert "backbone.bottom_up.stages.3.blocks.2.mlp.fc2.weight" in tensors


def test_the_cost_of_a_cell_is_that_of_its_own_trunk(tmp_path: Path, planned: Path) -> None:
    """Not of the ResNet that MODEL.RESNETS describes beside it; ConvNeXt-T has 59 layers."""
    changes = overridden("pretrain", **CROPS)
    cells = plan(tmp_path, planned, architectures={"C": CONVNEXT}, **changes)
    assert {round(cell.cost) for cell in cells if cell.pretrain is None} == {59}


@pytest.mark.parametrize(
    ("norm", "message"),
    [("BN", "NORM is 'BN' with MODEL.TIMM.MODEL 'convnext_tiny'; it takes LN"), ("LN", "leaves nothing of so few")],
)
def test_a_trunk_that_the_recipe_does_not_suit_is_refused(
    tmp_path: Path, planned: Path, norm: str, message: str
) -> None:
    """The tiny study's crops of 24 pixels are too small for ConvNeXt's strides."""
    changes = overridden("pretrain", **CROPS) if norm == "BN" else {}
    with pytest.raises(UserError, match=message):
        plan(tmp_path, planned, architectures={"C": {**CONVNEXT, "MODEL.RESNETS.NORM": norm}}, **changes)


@pytest.mark.detectron2
def test_detectron2s_builders_are_looked_up_first(tmp_path: Path, planned: Path) -> None:
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    finetune = overridden("finetune", MODEL__META_ARCHITECTURE="FasterMask")
    with pytest.raises(
        UserError, match="META_ARCHITECTURE is 'FasterMask', which Detectron2 does not know; registered"
    ):
        plan(tmp_path, planned, "detectron2", **finetune)


@pytest.mark.detectron2
def test_detectron2s_resnets_are_not_taken_for_the_trunk_that_a_config_names(tmp_path: Path, planned: Path) -> None:
    """Detectron2's builder of a ResNet would pass MODEL.TIMM.MODEL over; somebody else's builder may read it."""
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    named = overridden("finetune", MODEL__TIMM__MODEL="resnet50_clip")
    with pytest.raises(UserError, match=r"'resnet50_clip' with .*; use MODEL.BACKBONE.NAME build_timm_fpn_backbone"):
        plan(tmp_path, planned, "detectron2", **named)


def test_a_study_starts_from_no_detector(tmp_path: Path, planned: Path) -> None:
    """Whose pretraining images nobody counts."""
    asked = overridden("finetune", SCALEPRIOR__START="detector")
    with pytest.raises(UserError, match=r"SCALEPRIOR\.START is 'detector' .*counts no images of pretraining"):
        plan(tmp_path, planned, **asked)


def test_from_scratch_is_from_scratch(tmp_path: Path, planned: Path) -> None:
    weights = overridden("finetune", MODEL__WEIGHTS="somebody.safetensors")
    with pytest.raises(UserError, match=r"from scratch would start from MODEL.WEIGHTS somebody.safetensors .*scratch"):
        plan(tmp_path, planned, **weights)
    assert [cell.images for cell in plan(tmp_path, planned, scratch=False, **weights)] == [16, 32, 64]


def test_a_study_takes_no_doubtful_corpus(tmp_path: Path) -> None:
    """Nobody is asked in the middle of a study, whatever terminal it was started from."""
    class_folders(tmp_path / "src", {"images": 2})
    coco = dict(zip(("json", "images"), map(str, make_coco(tmp_path / "coco"))))
    path = write_spec(tmp_path, corpus={"source": str(tmp_path / "src")}, detection={"train": coco, "val": coco})
    with pytest.raises(
        UserError, match=r"the one label 'images'.*index it with: scaleprior corpus build SRC OUT --yes"
    ):
        prepare_data(load_spec(path), tmp_path / "out")
    assert not (tmp_path / "out" / "corpus").exists()


def test_a_wrong_detection_set_is_refused_before_an_index_is_built(tmp_path: Path) -> None:
    class_folders(tmp_path / "src", {"cat": 2, "dog": 2})
    coco = {"json": "none.json", "images": "none"}
    path = write_spec(tmp_path, corpus={"source": str(tmp_path / "src")}, detection={"train": coco, "val": coco})
    with pytest.raises(UserError, match=r"annotations of study_train not found: .*none.json"):
        prepare_data(load_spec(path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_annotations_that_cannot_be_used_may_be_left_out_of_a_studys_sets(tmp_path: Path, planned: Path) -> None:
    path, root = make_coco(tmp_path / "coco", change=lambda d: d["annotations"][0].update(bbox=[0, 0, 0, 0]))
    coco = {"json": str(path), "images": str(root)}
    sets = {"detection": {"train": coco, "val": coco}}
    with pytest.raises(UserError, match=r"1 box of zero or negative size.*SCALEPRIOR.DROP_BAD"):
        plan(tmp_path, planned, **sets)
    spec = load_spec(write_spec(tmp_path, **sets, **overridden("finetune", SCALEPRIOR__DROP_BAD="images")))
    assert prepare_data(spec, planned, engine="torchvision").counts["detection images"] == "5 to train, 5 to evaluate"
    found = sp.check(study=spec, engine="torchvision", out=tmp_path / "out").findings
    assert [(f.kind, f.stops) for f in found if "size" in f.kind] == [("box_size", False)]
