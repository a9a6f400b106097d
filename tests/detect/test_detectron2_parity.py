"""The torchvision engine against the real Detectron2, given the same weights: losses, detections, settings."""

from __future__ import annotations

from typing import Any

import faster_coco_eval.core.mask as mask_api
import pytest
import torch

from scaleprior.config import LoadedConfig
from scaleprior.config.defaults import add_detection_config
from scaleprior.config.dotted import get_key, set_key
from scaleprior.detect.data.segmentation import Segmentation, read_mask, to_image
from scaleprior.detect.faster_rcnn.model import Detector, build_detector
from scaleprior.detect.faster_rcnn.model_file import model_names
from scaleprior.detect.faster_rcnn.paste import paste_masks
from scaleprior.detect.faster_rcnn.solver import build_optimizer, clip_gradients, lr_factor
from tests.detect.conftest import tiny_config

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

LOSSES = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
# every anchor and proposal is sampled, so that the random samplers of the two sides have no choice to differ in
_ALL = [
    *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", "100000", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "4096"),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.01", "MODEL.ROI_HEADS.NUM_CLASSES", "3"),
]


def _theirs(loaded: LoadedConfig) -> Any:
    """Detectron2's config with all our keys."""
    from detectron2.config import get_cfg
    from fvcore.common.config import CfgNode

    cfg = get_cfg()
    ours = CfgNode()
    add_detection_config(ours)

    def copy(node: CfgNode, prefix: str) -> None:
        for name, value in node.items():
            key = f"{prefix}{name}"
            if isinstance(value, CfgNode):
                copy(value, f"{key}.")
            elif not key.startswith("SCALEPRIOR"):
                set_key(cfg, key, get_key(loaded.cfg, key))

    copy(ours, "")
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def _pair(kind: str, *overrides: str) -> tuple[Detector, Any]:
    """Our detector with random numbers in every tensor, and Detectron2's with the same."""
    from detectron2.modeling import build_model

    loaded = tiny_config(kind, [*_ALL, *overrides])
    torch.manual_seed(0)
    ours = build_detector(loaded.cfg)
    with torch.no_grad():
        for name, tensor in ours.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif ".mask_head." in name and tensor.is_floating_point():
                tensor.normal_(0, 0.3 if tensor.dim() == 1 else (2 / tensor[0].numel()) ** 0.5)
            elif "rpn_head" in name or "box_predictor" in name:
                # small in C4, whose features are large with these norms, so that no class wins everywhere
                tensor.normal_(0, 0.1 if kind == "FPN" else 0.003)
            elif tensor.is_floating_point() and ("bn" in name or "downsample.1" in name or name.endswith("bias")):
                tensor.normal_(0.3, 0.2)
    theirs = build_model(_theirs(loaded))
    names = model_names(ours)
    state = {names[name]: tensor for name, tensor in ours.state_dict().items() if name in names}
    expected = {name for name in theirs.state_dict() if not name.endswith("num_batches_tracked")}
    assert set(state) == expected
    theirs.load_state_dict(state, strict=False)
    return ours, theirs


def _inputs() -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in ((64, 96), (70, 64))
    ]
    boxes = [torch.tensor([[4.0, 6.0, 40.0, 50.0], [50.0, 10.0, 90.0, 60.0]]), torch.tensor([[10.0, 20.0, 50.0, 68.0]])]
    return images, boxes, [torch.tensor([0, 2]), torch.tensor([1])]


CASES = [
    ("FPN", ()),
    ("FPN", ("MODEL.RESNETS.NORM", "FrozenBN", "MODEL.BACKBONE.FREEZE_AT", "2")),
    ("FPN", ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True", "MODEL.RPN.SMOOTH_L1_BETA", "0.11")),
    ("FPN", ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlign", "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", "2")),
    ("FPN", ("MODEL.ANCHOR_GENERATOR.OFFSET", "0.5", "MODEL.RPN.CONV_DIMS", "[8, 6]", "MODEL.RPN.LOSS_WEIGHT", "0.5")),
    ("FPN", ("MODEL.ROI_BOX_HEAD.NUM_CONV", "1", "MODEL.ROI_BOX_HEAD.CONV_DIM", "6", "MODEL.FPN.NORM", "BN")),
    ("FPN", ("MODEL.RESNETS.STRIDE_IN_1X1", "True", "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA", "0.5")),
    ("C4", ("MODEL.RESNETS.NORM", "FrozenBN", "MODEL.BACKBONE.FREEZE_AT", "2")),
    ("C4", ("MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", "False")),
]


@pytest.mark.parametrize(("kind", "overrides"), CASES)
def test_same_weights_give_the_same_losses_and_detections(kind: str, overrides: tuple[str, ...]) -> None:
    from detectron2.structures import Boxes, Instances

    ours, theirs = _pair(kind, *overrides)
    images, boxes, classes = _inputs()
    inputs = []
    for image, box, cls in zip(images, boxes, classes):
        instances = Instances(tuple(image.shape[1:]))
        instances.gt_boxes, instances.gt_classes = Boxes(box), cls
        inputs.append({"image": image, "instances": instances, "height": image.shape[1], "width": image.shape[2]})

    ours.train(), theirs.train()
    from detectron2.utils.events import EventStorage

    with EventStorage():
        expected = theirs(inputs)
    actual = ours.losses(images, boxes, classes)
    assert set(actual) == set(expected)
    for name, value in expected.items():
        # float32 through some 50 layers in another order of operations
        torch.testing.assert_close(actual[name], value, rtol=1e-4, atol=1e-5)

    ours.eval(), theirs.eval()
    for mine, their in zip(ours.detect(images), theirs(inputs)):
        their = their["instances"]
        assert len(mine.scores) == len(their) > 0
        torch.testing.assert_close(mine.scores, their.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mine.boxes, their.pred_boxes.tensor, rtol=1e-4, atol=2e-3)
        assert torch.equal(mine.classes, their.pred_classes)


@pytest.mark.parametrize(
    "overrides",
    [
        ("SOLVER.MAX_ITER", "30", "SOLVER.STEPS", "(12, 20, 99)", "SOLVER.WARMUP_ITERS", "5"),
        ("SOLVER.MAX_ITER", "30", "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR_END", "0.001"),
        ("SOLVER.MAX_ITER", "20", "SOLVER.WARMUP_METHOD", "constant", "SOLVER.WARMUP_ITERS", "40"),
        ("SOLVER.MAX_ITER", "20", "SOLVER.WARMUP_ITERS", "0"),
    ],
)
def test_learning_rates_are_detectron2s(overrides: tuple[str, ...]) -> None:
    from detectron2.solver import build_lr_scheduler

    loaded = tiny_config("FPN", overrides)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=loaded.cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(_theirs(loaded), optimizer)
    factor, total = lr_factor(loaded.cfg), loaded.cfg.SOLVER.MAX_ITER
    for step in range(total):
        expected = optimizer.param_groups[0]["lr"]
        assert loaded.cfg.SOLVER.BASE_LR * factor(step / total) == pytest.approx(expected, rel=1e-12)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("overrides", [(), ("SOLVER.BIAS_LR_FACTOR", "2.0", "SOLVER.WEIGHT_DECAY_BIAS", "0.5")])
def test_every_parameter_gets_detectron2s_rate_and_decay(overrides: tuple[str, ...]) -> None:
    from detectron2.solver import build_optimizer as their_optimizer

    overrides = ("SOLVER.WEIGHT_DECAY_NORM", "0.25", *overrides)
    loaded = tiny_config("FPN", [*_ALL, *overrides])
    ours, theirs = _pair("FPN", *overrides)

    def settings(optimizer: Any, names: dict[int, str]) -> dict[str, tuple[float, float]]:
        return {
            names[id(p)]: (group["lr"], group["weight_decay"])
            for group in optimizer.param_groups
            for p in group["params"]
        }

    renamed = model_names(ours)
    mine = settings(build_optimizer(loaded.cfg, ours), {id(p): renamed[n] for n, p in ours.named_parameters()})
    their = settings(their_optimizer(_theirs(loaded), theirs), {id(p): n for n, p in theirs.named_parameters()})
    assert mine == their


# A triangle, an object in two parts that reach out of its image, and a ring's outline
_OUTLINES = [
    [
        [[4.0, 6.0, 40.0, 20.0, 12.0, 50.0]],
        [[50.0, 10.0, 70.0, 12.0, 66.0, 60.0], [75.0, 20.0, 90.0, 25.0, 99.0, 60.0]],
    ],
    [[[10.0, 20.0, 50.0, 20.0, 50.0, 68.0, 30.5, 44.25, 10.0, 68.0]]],
]
MASK_CASES = [
    ("FPN", ()),
    ("FPN", ("INPUT.MASK_FORMAT", "bitmask", "MODEL.ROI_MASK_HEAD.NUM_CONV", "2")),
    ("FPN", ("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", "True", "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", "9")),
    ("FPN", ("MODEL.ROI_MASK_HEAD.NORM", "GN", "MODEL.ROI_MASK_HEAD.NUM_CONV", "1")),
    ("FPN", ("MODEL.ROI_MASK_HEAD.POOLER_TYPE", "ROIAlign", "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", "2")),
    ("C4", ()),
    ("C4", ("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", "True", "INPUT.MASK_FORMAT", "bitmask")),
    ("C4", ("MODEL.ROI_MASK_HEAD.NUM_CONV", "1", "MODEL.ROI_MASK_HEAD.NORM", "BN")),
]


def _with_masks(form: str) -> tuple[list[dict[str, Any]], list[list[Segmentation]]]:
    """The images with boxes, classes and masks: as Detectron2 reads them, and the masks as we do."""
    from detectron2.data.detection_utils import annotations_to_instances
    from detectron2.structures import BoxMode

    inputs, masks = [], []
    for image, boxes, classes, outlines in zip(*_inputs(), _OUTLINES):
        size = (image.shape[1], image.shape[2])
        annotations = [
            {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": cls, "segmentation": outline}
            for box, cls, outline in zip(boxes.tolist(), classes.tolist(), outlines)
        ]
        instances = annotations_to_instances(annotations, size, mask_format=form)
        inputs.append({"image": image, "instances": instances, "height": size[0], "width": size[1]})
        masks.append([to_image(read_mask(outline), size, size, form=form) for outline in outlines])
    return inputs, masks


@pytest.mark.parametrize(("kind", "overrides"), MASK_CASES)
def test_mask_rcnn_has_the_same_losses_detections_and_masks(kind: str, overrides: tuple[str, ...]) -> None:
    from detectron2.utils.events import EventStorage

    ours, theirs = _pair(kind, "MODEL.MASK_ON", "True", "MODEL.ROI_MASK_HEAD.CONV_DIM", "32", *overrides)
    images, boxes, classes = _inputs()
    inputs, masks = _with_masks("bitmask" if "bitmask" in overrides else "polygon")
    ours.train(), theirs.train()
    with EventStorage():
        expected = theirs(inputs)
    actual = ours.losses(images, boxes, classes, masks)
    assert set(actual) == set(expected) == {*LOSSES, "loss_mask"}
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-4, atol=1e-5)
    assert actual["loss_mask"] > 0.3

    ours.eval(), theirs.eval()
    found = ours.detect(images)
    # before Detectron2 pastes the masks into the image: probabilities
    for mine, their in zip(found, theirs.inference(inputs, do_postprocess=False)):
        assert len(mine.scores) == len(their) > 0
        torch.testing.assert_close(mine.boxes, their.pred_boxes.tensor, rtol=1e-4, atol=2e-3)
        assert torch.equal(mine.classes, their.pred_classes)
        assert mine.masks is not None
        torch.testing.assert_close(mine.masks, their.pred_masks[:, 0], rtol=1e-3, atol=1e-4)
        assert mine.masks.std() > 0.05
    for mine, their, image in zip(found, theirs(inputs), images):
        assert mine.masks is not None
        runs = paste_masks(mine.masks, mine.boxes, *image.shape[1:])
        pasted = mask_api.decode([{"counts": counts, "size": list(image.shape[1:])} for counts in runs])
        expected = their["instances"].pred_masks.permute(1, 2, 0).numpy()
        assert pasted.shape == expected.shape
        # a probability that is 0.5 but for rounding falls on either side: a few of some 1e5 pixels
        assert (pasted != expected).mean() < 1e-4
        assert 0.01 < expected.mean() < 0.99


@pytest.mark.parametrize("kind", ["FPN", "C4"])
def test_without_objects_detectron2_and_ours_have_no_loss_of_masks_and_every_gradient(kind: str) -> None:
    from detectron2.data.detection_utils import annotations_to_instances
    from detectron2.utils.events import EventStorage

    ours, theirs = _pair(kind, "MODEL.MASK_ON", "True", "MODEL.ROI_MASK_HEAD.CONV_DIM", "32")
    images = _inputs()[0]
    none = [torch.zeros(0, 4)] * 2
    inputs = [
        {"image": image, "instances": annotations_to_instances([], (image.shape[1], image.shape[2]))}
        for image in images
    ]
    with EventStorage():
        expected = theirs.train()(inputs)
    actual = ours.train().losses(images, none, [torch.zeros(0, dtype=torch.int64)] * 2, [[], []])
    assert actual["loss_mask"].item() == expected["loss_mask"].item() == 0
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-4, atol=1e-5)
    torch.stack(list(actual.values())).sum().backward()
    head = ours.roi_heads.mask_head
    assert head is not None
    assert all(p.grad is not None for p in head.parameters())


def test_steps_of_training_leave_the_same_weights_of_a_mask_rcnn() -> None:
    """Losses, gradients, clipping and updates at once; what else two runs differ in is what each draws at random."""
    from detectron2.solver import build_optimizer as their_optimizer
    from detectron2.utils.events import EventStorage

    words = (
        *("MODEL.MASK_ON", "True", "MODEL.ROI_MASK_HEAD.CONV_DIM", "32", "MODEL.ROI_MASK_HEAD.NUM_CONV", "2"),
        *("MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", "2", "MODEL.RESNETS.NORM", "FrozenBN"),
        *("SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"),
    )
    loaded = tiny_config("FPN", [*_ALL, *words])
    ours, theirs = _pair("FPN", *words)
    (images, boxes, classes), (inputs, masks) = _inputs(), _with_masks("polygon")
    mine, other = build_optimizer(loaded.cfg, ours.train()), their_optimizer(_theirs(loaded), theirs.train())
    start = {name: p.detach().clone() for name, p in ours.named_parameters()}
    for _ in range(3):
        with EventStorage():
            expected = torch.stack(list(theirs(inputs).values())).sum()
        loss = torch.stack(list(ours.losses(images, boxes, classes, masks).values())).sum()
        for optimizer, total in ((mine, loss), (other, expected)):
            optimizer.zero_grad()
            total.backward()
        clip_gradients(loaded.cfg, mine)  # Detectron2's optimiser does so itself
        mine.step(), other.step()
    names, their_weights = model_names(ours), dict(theirs.named_parameters())
    moved = [(n, p, their_weights[names[n]], (p - start[n]).abs().max()) for n, p in ours.named_parameters()]
    assert sum(bool(step) for *_, step in moved) == len(moved)
    assert all((p - q).abs().max() < 1e-2 * step for _, p, q, step in moved)
    assert all((p - q).abs().max() < 1e-3 * step for n, p, q, step in moved if ".mask_head." in n)
