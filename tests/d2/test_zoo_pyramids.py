"""BiT, CLIP and ConvNeXt under the pyramids of Detectron2's zoo: trained for a step, and evaluated."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator

from scaleprior.d2 import register_coco
from scaleprior.errors import UserError
from scaleprior.model_zoo import with_backbone
from tests.d2.conftest import timm_file
from tests.d2.test_model_zoo import SMALL, with_squares
from tests.detect.conftest import make_coco

MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
CASCADE = "Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml"
RETINANET = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
MODELS = ("convnext_tiny", "resnetv2_50x1_bit", "resnet50_clip")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("trunks")
    return {model: timm_file(folder / f"{model}.safetensors", model) for model in MODELS}


class Evaluating(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return COCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR, use_fast_impl=False)


@pytest.mark.parametrize(
    ("model", "config"),
    [
        ("convnext_tiny", CASCADE),
        ("convnext_tiny", MASK),
        ("resnetv2_50x1_bit", CASCADE),
        ("resnet50_clip", MASK),
        ("convnext_tiny", RETINANET),
    ],
)
def test_it_trains_and_is_evaluated(model: str, config: str, files: dict[str, Path], tmp_path: Path) -> None:
    path, root = make_coco(tmp_path / "data", images=2, change=with_squares)
    register_coco("zoo_set", path, root)
    cfg = with_backbone(config, files[model], classes="zoo_set")
    cfg.merge_from_list([*SMALL, "SOLVER.MAX_ITER", 1, "OUTPUT_DIR", str(tmp_path / "out")])
    cfg.merge_from_list(["DATASETS.TEST", ("zoo_set",), "INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 64])
    cfg.merge_from_list(["MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0])
    cfg.merge_from_list(["TEST.DETECTIONS_PER_IMAGE", 5, "MODEL.RPN.POST_NMS_TOPK_TEST", 16])
    trainer = Evaluating(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    losses = {name: h.latest() for name, h in trainer.storage.histories().items() if "loss" in name}
    assert len(losses) == {MASK: 6, CASCADE: 10, RETINANET: 3}[config]
    assert all(map(math.isfinite, losses.values()))
    found = trainer._last_eval_results
    assert set(found) == ({"bbox"} if config == RETINANET else {"bbox", "segm"})
    assert all(0 <= kind["AP"] <= 100 for kind in found.values())


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            "Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5.yaml",
            r"DEFORM_ON_PER_STAGE is \[False, True, True",
        ),
        ("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml", r"C4's head is the res5 of a ResNet; take a config with a"),
        ("COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml", r"take a config with a feature pyramid \(FPN\)"),
    ],
)
def test_what_only_a_resnet_has_is_refused(config: str, said: str, files: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=said):
        with_backbone(config, files["convnext_tiny"])
