"""The mask head against an independent computation, and against the layers and the loss of the real Detectron2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scaleprior.detect.faster_rcnn.parts.mask_head import MaskHead, mask_loss


def _norm(name: str) -> Callable[[int], nn.Module] | None:
    return {"": None, "BN": nn.BatchNorm2d, "GN": lambda width: nn.GroupNorm(32, width)}[name]


def _slow(head: MaskHead, pooled: Tensor, classes: list[int]) -> Tensor:
    """Every class' mask by the layers themselves, then the one of each object."""
    x = pooled
    for name, layer in head.named_children():
        x = layer(x) if name == "predictor" else F.relu(layer(x))
    return torch.stack([masks[0 if len(masks) == 1 else cls] for masks, cls in zip(x, classes)])


@pytest.mark.parametrize("norm", ["", "GN"])
@pytest.mark.parametrize(("classes", "convs"), [(3, 0), (3, 2), (1, 1)])
def test_the_mask_of_a_class_is_its_row_of_the_masks_of_all_classes(classes: int, convs: int, norm: str) -> None:
    torch.manual_seed(0)
    head = MaskHead(5, classes, convs=convs, width=32, norm=_norm(norm)).double()
    nn.init.normal_(head.predictor.weight)
    assert head.predictor.bias is not None
    nn.init.normal_(head.predictor.bias)
    pooled = torch.randn(4, 5, 7, 7, dtype=torch.float64)
    wanted = [2, 0, 2, 1]
    found = head(pooled, torch.tensor(wanted))
    assert found.shape == (4, 14, 14)
    torch.testing.assert_close(found, _slow(head, pooled, wanted).float(), rtol=1e-6, atol=1e-6)

    def gradients(logits: Tensor) -> list[Tensor]:
        parameters = list(head.parameters())
        return list(torch.autograd.grad(mask_loss(logits.double(), torch.ones(4, 14, 14)), parameters))

    for mine, slow in zip(gradients(head(pooled, torch.tensor(wanted))), gradients(_slow(head, pooled, wanted))):
        torch.testing.assert_close(mine, slow, rtol=1e-6, atol=1e-8)


def test_the_loss_is_the_mean_over_the_pixels_of_all_masks() -> None:
    """-log(sigmoid(z)) where a pixel is the object's, -log(1 - sigmoid(z)) where it is not."""
    logits = torch.tensor([[[0.0, 2.0], [-1.0, 3.0]], [[4.0, -4.0], [0.0, 0.0]]])
    targets = torch.tensor([[[1, 1], [0, 0]], [[1, 0], [0, 1]]])
    p = logits.double().sigmoid()
    expected = torch.where(targets == 1, -p.log(), -(1 - p).log()).mean()
    for kind in (torch.bool, torch.float32, torch.uint8):
        torch.testing.assert_close(mask_loss(logits, targets.to(kind)).double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm", ["", "BN", "GN"])
def test_without_objects_the_loss_is_0_and_every_parameter_has_a_gradient(norm: str) -> None:
    head = MaskHead(3, 2, convs=1, width=32, norm=_norm(norm))
    loss = mask_loss(head(torch.zeros(0, 3, 4, 4), torch.zeros(0, dtype=torch.int64)), torch.zeros(0, 8, 8))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_the_layers_run_in_the_autocast_type_and_the_logits_are_float32() -> None:
    torch.manual_seed(0)
    head, seen = MaskHead(3, 2, convs=1, width=4), []
    head.deconv.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    pooled, classes = torch.randn(2, 3, 4, 4), torch.tensor([1, 0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(pooled, classes)
        loss = mask_loss(logits, torch.ones(2, 8, 8))
    assert (seen, logits.dtype, loss.dtype) == ([torch.bfloat16], torch.float32, torch.float32)
    torch.testing.assert_close(logits, head(pooled, classes), rtol=0.05, atol=1e-3)


CASES = [
    {"NUM_CONV": 0},
    {"NUM_CONV": 2, "CLS_AGNOSTIC_MASK": True},
    {"NUM_CONV": 1, "NORM": "GN", "CONV_DIM": 64},
    {"NUM_CONV": 1, "NORM": "BN", "CONV_DIM": 32},
]


@pytest.mark.detectron2
@pytest.mark.parametrize("keys", CASES, ids=lambda keys: "-".join(f"{k}-{v}" for k, v in keys.items()))
def test_detectron2_has_the_same_layers_loss_and_probabilities(keys: dict[str, Any]) -> None:
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.roi_heads.mask_head import build_mask_head, mask_rcnn_inference, mask_rcnn_loss
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.events import EventStorage

    cfg = get_cfg()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    for name, value in keys.items():
        cfg.MODEL.ROI_MASK_HEAD[name] = value
    torch.manual_seed(7)
    theirs = build_mask_head(cfg, ShapeSpec(channels=6, height=5, width=5))
    torch.manual_seed(7)
    ours = MaskHead.from_config(cfg, 6)
    # torch draws by the same calls in the same order, so even fresh weights are equal to the bit
    theirs_in_order = [t for n, t in theirs.state_dict().items() if not n.endswith("num_batches_tracked")]
    ours_in_order = [t for n, t in ours.state_dict().items() if not n.endswith("num_batches_tracked")]
    assert all(torch.equal(a, b) for a, b in zip(ours_in_order, theirs_in_order, strict=True))

    pooled, classes = torch.randn(4, 6, 5, 5), torch.tensor([2, 0, 1, 2])
    masks = torch.rand(4, 10, 10) > 0.5
    instances = Instances((100, 100))
    instances.gt_classes, instances.proposal_boxes = classes, Boxes(torch.zeros(4, 4))
    instances.gt_masks = _Cut(masks)
    with EventStorage():
        expected = mask_rcnn_loss(theirs.layers(pooled), [instances])
    loss = mask_loss(ours(pooled, classes), masks)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    found = Instances((100, 100))
    found.pred_classes = classes
    mask_rcnn_inference(theirs.layers(pooled), [found])
    torch.testing.assert_close(ours(pooled, classes).sigmoid(), found.pred_masks[:, 0], rtol=1e-5, atol=1e-6)


class _Cut:
    """True masks that are cut out already, with as much of Detectron2's interface as its loss uses."""

    def __init__(self, masks: Tensor) -> None:
        self.masks = masks

    def __len__(self) -> int:
        return len(self.masks)

    def crop_and_resize(self, boxes: Tensor, side: int) -> Tensor:
        return self.masks
