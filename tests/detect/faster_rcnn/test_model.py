"""Building detectors from configs: parts, freezing, fused norms, and values that are refused."""

from __future__ import annotations

import copy

import pytest
import torch

from scaleprior.backbones.trunks.freezing import freeze_norms
from scaleprior.backbones.trunks.resnet.build import build_resnet
from scaleprior.backbones.trunks.resnet.spec import ResNetSpec
from scaleprior.detect.data.transforms import pad_images
from scaleprior.detect.faster_rcnn.model import build_detector
from scaleprior.detect.faster_rcnn.parts.backbone import fuse_frozen_norms
from scaleprior.errors import UserError
from tests.detect.conftest import tiny_config


def _randomise(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if "bn" in name or "downsample.1" in name:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)


def test_fused_norms_compute_the_same_and_so_do_their_gradients() -> None:
    plain = freeze_norms(build_resnet(ResNetSpec(depth=50, res2_out_channels=16, width_per_group=4))).double()
    _randomise(plain)
    fused = copy.deepcopy(plain)
    fuse_frozen_norms(ResNetSpec().family.conv_norms(fused))
    assert sum(type(module).__name__ == "_FusedNorm" for module in fused.modules()) == 1 + 16 * 3 + 4
    fused = copy.deepcopy(fused)  # a copy has to use its own numbers
    assert list(fused.state_dict()) == list(plain.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    outputs = [model(x) for model in (plain, fused)]
    torch.testing.assert_close(outputs[1], outputs[0])
    for output in outputs:
        output.square().mean().backward()
    for (name, a), b in zip(plain.named_parameters(), fused.parameters()):
        torch.testing.assert_close(b.grad, a.grad, msg=name)


def test_a_fused_norm_or_weight_that_is_written_to_is_worked_out_anew() -> None:
    torch.manual_seed(0)
    plain = freeze_norms(build_resnet(ResNetSpec(depth=50, res2_out_channels=16, width_per_group=4))).double()
    _randomise(plain)
    fused = copy.deepcopy(plain)
    fuse_frozen_norms(ResNetSpec().family.conv_norms(fused))
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)

    def same() -> bool:
        with torch.inference_mode():
            evaluated = torch.allclose(fused(x), plain(x))
        return evaluated and torch.allclose(fused(x), plain(x))

    assert same()
    for change in ("layer1.0.conv1.weight", "layer2.0.bn1.running_var", "layer3.0.bn2.weight"):
        before = fused(x).detach()
        for model in (plain, fused):
            with torch.no_grad():
                model.state_dict()[change].mul_(3)
        assert not torch.allclose(fused(x), before, rtol=1e-3)
        assert same(), change
    for model in (plain, fused):
        model.float().double()  # other tensors, of other values
    assert same()
    fused(x).sum().backward()  # what inference left does not stand in the way


@pytest.mark.parametrize(("kind", "depth"), [("C4", 50), ("C4", 152), ("FPN", 18), ("FPN", 101)])
def test_builds_and_runs(kind: str, depth: int) -> None:
    widths = ["MODEL.RESNETS.RES2_OUT_CHANNELS", "64"] if depth < 50 else []
    loaded = tiny_config(kind, ["MODEL.RESNETS.DEPTH", str(depth), *widths])
    model = build_detector(loaded.cfg)
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    box, cls = torch.tensor([[8.0, 8, 40, 40]]), torch.tensor([5])
    losses = model.train().losses([image], [box], [cls])
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
    sum(losses.values()).backward()
    assert len(model.eval().detect([image])) == 1


def test_an_image_without_objects_has_finite_losses() -> None:
    model = build_detector(tiny_config("FPN").cfg).train()
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    losses = model.losses([image], [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)])
    assert losses["loss_rpn_loc"] == losses["loss_box_reg"] == 0
    assert torch.isfinite(sum(losses.values()))


@pytest.mark.parametrize(("kind", "frozen"), [("FPN", 2), ("FPN", 0), ("C4", 5)])
def test_freeze_at(kind: str, frozen: int) -> None:
    cfg = tiny_config(kind, ["MODEL.BACKBONE.FREEZE_AT", str(frozen), "MODEL.RESNETS.NORM", "BN"]).cfg
    learning = {n for n, p in build_detector(cfg).named_parameters() if p.requires_grad}
    stem = any(n.endswith("trunk.body.conv1.weight") for n in learning)
    res2, res3 = (any(f"trunk.body.layer{i}." in n for n in learning) for i in (1, 2))
    assert (stem, res2, res3) == ((False, False, True) if frozen == 2 else (frozen == 0,) * 3)
    if kind == "C4":  # res5 of the head is never frozen
        assert any("box_head.res5" in n for n in learning)


def test_padding_is_the_mean_and_strides_divide_the_batch() -> None:
    model = build_detector(tiny_config("FPN").cfg)
    images = [torch.full((3, 40, 60), 7, dtype=torch.uint8), torch.full((3, 64, 30), 7, dtype=torch.uint8)]
    batch = model.batch(*pad_images(images))
    assert batch.shape == (2, 3, 64, 64)
    assert (batch[0, :, 40:] == 0).all()
    assert (batch[1, :, :, 30:] == 0).all()
    torch.testing.assert_close(batch[0, 0, 0, 0].item(), (7 - 123.675) / 58.395)
    assert model.batch(*pad_images(images[:1])).shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("kind", "key", "value", "message"),
    [
        ("FPN", "MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "is 'CascadeROIHeads'; that needs the detectron2 engine"),
        ("FPN", "MODEL.BACKBONE.NAME", "build_mnetv2", "needs the detectron2 engine"),
        ("FPN", "MODEL.RESNETS.NORM", "nnSyncBN", "needs the detectron2 engine"),
        ("FPN", "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool", "needs the detectron2 engine"),
        ("FPN", "MODEL.ROI_BOX_HEAD.NAME", "", "needs the detectron2 engine"),
        ("FPN", "SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "needs the detectron2 engine"),
        ("FPN", "MODEL.ROI_HEADS.IOU_THRESHOLDS", "[0.4, 0.6]", "needs the detectron2 engine"),
        ("C4", "MODEL.ROI_HEADS.NAME", "StandardROIHeads", "needs the detectron2 engine"),
        ("C4", "MODEL.RESNETS.OUT_FEATURES", "['res5']", "needs the detectron2 engine"),
        ("C4", "MODEL.RESNETS.DEPTH", "18", "Res5ROIHeads has bottleneck blocks"),
        ("FPN", "MODEL.FPN.IN_FEATURES", "['res2', 'res4']", "consecutive stages"),
        ("FPN", "MODEL.RPN.IN_FEATURES", "['p2', 'p9']", r"the backbone makes \['p2', 'p3', 'p4', 'p5', 'p6'\]"),
        ("FPN", "MODEL.RPN.POSITIVE_FRACTION", "1.5", "give a number from 0 to 1"),
        ("FPN", "SOLVER.IMS_PER_BATCH", "0", "give a whole number of at least 1"),
        ("FPN", "INPUT.MIN_SIZE_TRAIN", "()", "give one or more whole numbers of at least 1"),
        ("FPN", "MODEL.PIXEL_STD", "[1.0, 0.0, 1.0]", "give three numbers above 0"),
        ("FPN", "MODEL.PIXEL_MEAN", "[1.0]", "give three numbers"),
        ("FPN", "MODEL.BACKBONE.FREEZE_AT", "9", "give a whole number from 0 to 5"),
        ("FPN", "VERSION", "1", "VERSION is 1"),
    ],
)
def test_values_that_cannot_be_honoured_are_refused_by_name(kind: str, key: str, value: str, message: str) -> None:
    loaded = tiny_config(kind, [key, value])
    with pytest.raises(UserError, match=message) as caught:
        build_detector(loaded.cfg)
    assert key in str(caught.value)
