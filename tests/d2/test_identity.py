"""What identifies a result, on all of Detectron2's own configs and against the other engine's words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from scaleprior.config import data_file, load_config
from scaleprior.d2.plan import default_config
from scaleprior.d2.zoo_files import zoo_folder
from scaleprior.detect.identity import detector_words, settings_of_test, tuning_of


def identity(cfg: Any) -> tuple[Any, ...]:
    return (
        detector_words(cfg), cfg.SOLVER.MAX_ITER, cfg.DATASETS.TEST, *tuning_of(cfg).values(), settings_of_test(cfg),
    )  # fmt: skip


def test_detectron2_s_configs_are_one_comparison_where_their_names_differ_in_the_trunk_alone() -> None:
    found: dict[tuple[Any, ...], set[str]] = {}
    known = [path for path in sorted(zoo_folder().glob("*/*.yaml")) if not path.stem.startswith("Base")]
    for path in known:
        name = f"{path.parent.name}/{re.sub(r'(R|X)_[0-9]+(_32x8d)?', 'TRUNK', path.stem)}"
        found.setdefault(identity(load_config(str(path), defaults=default_config()).cfg), set()).add(name)
    assert [names for names in found.values() if len(names) > 1] == []
    names = [name for group in found.values() for name in group]
    assert len(names) == len(set(names)) < len(known)


@pytest.mark.parametrize("name", ["faster_rcnn_R_50_FPN.yaml", "faster_rcnn_R_152_C4_scratch.yaml"])
def test_both_engines_say_the_same_of_the_same_config(name: str) -> None:
    ours, theirs = (load_config(f"COCO-Detection/{name}", defaults=d).cfg for d in (None, default_config()))
    assert identity(ours) == identity(theirs)


def test_detectron2_s_bookkeeping_changes_nothing_and_its_own_settings_do() -> None:
    def of(*words: object) -> tuple[object, ...]:
        return identity(
            load_config("COCO-Detection/faster_rcnn_R_50_FPN.yaml", list(words), defaults=default_config()).cfg
        )

    assert of("TEST.EVAL_PERIOD", 10, "VIS_PERIOD", 5, "CUDNN_BENCHMARK", True, "DATALOADER.NUM_WORKERS", 1) == of()
    # What augmentation gives is a row of its own; the row beside it is the one without.
    assert of("TEST.AUG.ENABLED", True) == of()
    augmented = load_config(None, ["TEST.AUG.ENABLED", "True"], defaults=default_config()).cfg
    assert settings_of_test(augmented, augmented=True) != settings_of_test(augmented)
    for words in (
        ("TEST.DETECTIONS_PER_IMAGE", 300),
        ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True]),
        ("MODEL.RPN.BBOX_REG_LOSS_TYPE", "giou"),
        ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
    ):
        assert of(*words) != of()


def test_the_shipped_arms_are_told_apart_and_those_of_the_grid_itself_are_not(tmp_path: Path) -> None:
    folder = data_file("configs", "COCO-Detection/faster_rcnn_R_50_FPN.yaml").parent
    found = {"": identity(load_config("COCO-Detection/faster_rcnn_R_50_FPN.yaml", defaults=default_config()).cfg)}
    for piece in folder.glob("Arm-*.yaml"):
        if not piece.stem.endswith("-C4"):
            text = f"_BASE_: [{folder / 'faster_rcnn_R_50_FPN.yaml'}, {piece}]\n"
            (tmp_path / "arm.yaml").write_text(text)
            found[piece.stem] = identity(load_config(str(tmp_path / "arm.yaml"), defaults=default_config()).cfg)
    assert {name for name, one in found.items() if one == found[""]} == {"", "Arm-FrozenBN", "Arm-LR-base"}
    assert len(set(found.values())) == len(found) - 2 >= 6
