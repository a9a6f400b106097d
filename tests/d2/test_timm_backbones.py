"""timm's trunks as backbones of the real Detectron2: features, names, freezing, norms, training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from scaleprior.backbones import Card, ResNetSpec, TimmSpec, apply_card, build_trunk, save_backbone
from scaleprior.backbones.trunks.freezing import freeze_norms
from scaleprior.config import LoadedConfig, add_scaleprior_config
from scaleprior.d2.trunks.timm_backbones import TimmBackbone
from scaleprior.detect.faster_rcnn.model import build_detector
from scaleprior.detect.faster_rcnn.model_file import model_names
from scaleprior.errors import UserError
from tests.detect.conftest import tiny_config

BIT, CLIP, CONVNEXT = "resnetv2_50x1_bit", "resnet50_clip", "convnext_tiny"
NORMS = {BIT: "GN", CLIP: "FrozenBN", CONVNEXT: "LN", "resnet50": "FrozenBN"}
MAPS = ["res2", "res3", "res4", "res5"]


def randomise(module: nn.Module) -> dict[str, torch.Tensor]:
    """Random gains, biases and statistics, so that no norm is the identity; returns the state without counters."""
    generator = torch.Generator().manual_seed(0)
    state = {k: v for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}
    for name, tensor in state.items():
        if tensor.ndim == 1:
            low = 0.5 if name.endswith(("weight", "running_var")) else -0.2
            tensor.copy_(low + torch.rand(tensor.shape, generator=generator) * (1 if low > 0 else 0.4))
    return state


def config(model: str, *, retinanet: bool = False, **keys: Any) -> CfgNode:
    """Faster R-CNN on a pyramid, or RetinaNet; with few channels and proposals."""
    cfg = get_cfg()
    add_scaleprior_config(cfg)
    stages = MAPS[1:] if retinanet else MAPS
    levels = [f"p{stage[3]}" for stage in stages]
    words = {
        "MODEL.DEVICE": "cpu", "MODEL.TIMM.MODEL": model, "MODEL.RESNETS.NORM": NORMS.get(model, "FrozenBN"),
        "MODEL.BACKBONE.NAME": "build_retinanet_timm_fpn_backbone" if retinanet else "build_timm_fpn_backbone",
        "MODEL.RESNETS.OUT_FEATURES": stages, "MODEL.FPN.IN_FEATURES": stages, "MODEL.FPN.OUT_CHANNELS": 8,
        "MODEL.ANCHOR_GENERATOR.SIZES": [[s] for s in (32, 64, 128, 256, 512)],
        "MODEL.META_ARCHITECTURE": "RetinaNet" if retinanet else "GeneralizedRCNN",
        "MODEL.RETINANET.NUM_CONVS": 1, "MODEL.RETINANET.NUM_CLASSES": 2,
        "MODEL.RPN.IN_FEATURES": [*levels, "p6"], "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 32,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 16, "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 16,
        "MODEL.ROI_HEADS.NAME": "StandardROIHeads", "MODEL.ROI_HEADS.IN_FEATURES": levels,
        "MODEL.ROI_HEADS.NUM_CLASSES": 2, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 8,
        "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
        "MODEL.ROI_BOX_HEAD.FC_DIM": 16, "MODEL.PIXEL_STD": [58.0, 58.0, 58.0], **keys,
    }  # fmt: skip
    cfg.merge_from_list([x for pair in words.items() for x in pair])
    return cfg


def resnet_config(**keys: Any) -> CfgNode:
    """Detectron2's own ResNet-50 with the stride where timm has it."""
    cfg = get_cfg()
    words = {"MODEL.RESNETS.STRIDE_IN_1X1": False, "MODEL.RESNETS.OUT_FEATURES": MAPS, "MODEL.DEVICE": "cpu", **keys}
    cfg.merge_from_list([x for pair in words.items() for x in pair])
    return cfg


@pytest.mark.parametrize(("model", "norm"), [(BIT, "GN"), (CLIP, "BN"), (CLIP, "FrozenBN")])
def test_features_are_the_trunks(model: str, norm: str) -> None:
    trunk = build_trunk(TimmSpec(model)).eval()
    state = randomise(trunk.body)
    backbone = TimmBackbone(model, norm=norm, out_features=["res3", "res5"]).eval()
    backbone.load_state_dict(state, strict=norm == "GN")
    if norm == "FrozenBN":
        freeze_norms(trunk)
    x = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        expected = trunk.features(x, normalised=True)
        maps = backbone(x)
    assert list(maps) == ["res3", "res5"]
    assert all(torch.equal(maps[name], expected[name]) for name in maps)
    assert {n: (s.channels, s.stride) for n, s in backbone.output_shape().items()} == {
        "res3": (512, 8),
        "res5": (2048, 32),
    }
    assert [tuple(maps[n].shape) for n in maps] == [(1, 512, 8, 12), (1, 2048, 2, 3)]
    assert backbone.size_divisibility == 32


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "GN"])
def test_a_plain_resnet_exchanges_weights_with_detectron2s(norm: str) -> None:
    theirs = build_backbone(resnet_config(**{"MODEL.RESNETS.NORM": norm})).eval()
    state = randomise(theirs)
    ours = TimmBackbone("resnet50", norm=norm).eval()
    said = ours.load_state_dict(state, strict=False)
    assert (said.unexpected_keys, [n for n in said.missing_keys if "num_batches" not in n]) == ([], [])
    shapes = {n: t.shape for n, t in theirs.state_dict().items()}
    if norm == "FrozenBN":
        shapes = {n: s for n, s in shapes.items() if not n.endswith("num_batches_tracked")}
    assert {n: t.shape for n, t in ours.state_dict().items()} == shapes
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected, maps = theirs(x), ours(x)
    for name in MAPS:
        # FrozenBN multiplies in another order there
        torch.testing.assert_close(maps[name], expected[name], rtol=1e-4, atol=1e-5 * float(expected[name].max()))
    theirs.load_state_dict(ours.state_dict(), strict=False)
    assert all(torch.equal(t, state[n]) for n, t in theirs.state_dict().items() if n in state)
    assert {n: s.stride for n, s in ours.output_shape().items()} == {
        n: s.stride for n, s in theirs.output_shape().items()
    }
    assert ours.size_divisibility == theirs.size_divisibility == 0


@pytest.mark.parametrize("stages", [0, 2, 5])
def test_freeze_at_means_what_detectron2_means(stages: int) -> None:
    keys = {"MODEL.BACKBONE.FREEZE_AT": stages, "MODEL.RESNETS.NORM": "BN"}
    theirs = {n: p.requires_grad for n, p in build_backbone(resnet_config(**keys)).named_parameters()}
    ours = TimmBackbone("resnet50", norm="BN", freeze_at=stages)
    assert {n: p.requires_grad for n, p in ours.named_parameters()} == theirs


@pytest.mark.parametrize("model", [BIT, CLIP])
def test_freezing_a_stage_of_timms_trunks(model: str) -> None:
    backbone = TimmBackbone(model, norm="GN" if model == BIT else "BN", freeze_at=3)
    for name, parameter in backbone.named_parameters():
        frozen = name.startswith(("stem.", "stages.0.", "stages.1."))
        assert parameter.requires_grad == (not frozen), name
    for name, module in backbone.named_modules():
        if isinstance(module, FrozenBatchNorm2d):
            assert name.startswith(("stem.", "stages.0.", "stages.1."))
        if isinstance(module, nn.BatchNorm2d):
            assert name.startswith(("stages.2.", "stages.3."))


def test_norms_that_a_config_can_choose() -> None:
    kinds = {}
    for norm in ("FrozenBN", "BN", "SyncBN"):
        cfg = config("resnet50", **{"MODEL.RESNETS.NORM": norm, "MODEL.BACKBONE.FREEZE_AT": 1})
        body = build_backbone(cfg).bottom_up
        kinds[norm] = [type(m).__name__ for m in (body.stem.conv1.norm, body.res5[0].conv1.norm)]
    assert kinds == {
        "FrozenBN": ["FrozenBatchNorm2d", "FrozenBatchNorm2d"],
        "BN": ["FrozenBatchNorm2d", "BatchNorm2d"],
        "SyncBN": ["FrozenBatchNorm2d", "SyncBatchNorm"],
    }


def batch() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    inputs = []
    for height, width in ((64, 96), (70, 64)):
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.tensor([[4.0, 6.0, 40.0, 50.0], [20.0, 10.0, 60.0, 60.0]]))
        instances.gt_classes = torch.tensor([0, 1])
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
        inputs.append({"image": image, "instances": instances, "height": height, "width": width})
    return inputs


@pytest.mark.parametrize("retinanet", [False, True], ids=["faster-rcnn", "retinanet"])
@pytest.mark.parametrize("model", [BIT, CLIP, CONVNEXT, "resnet50"])
def test_a_detector_trains_end_to_end(model: str, retinanet: bool) -> None:
    torch.manual_seed(0)
    detector = build_model(config(model, retinanet=retinanet)).train()  # FREEZE_AT is 2, Detectron2's default
    body = detector.backbone.bottom_up
    if model != BIT:  # FrozenBN of untrained weights: numbers as after training
        randomise(body)
    parts = (
        [body.stem, *(body.res2, body.res3, body.res4, body.res5)] if model == "resnet50" else [body.stem, *body.stages]
    )
    before = [{n: p.detach().clone() for n, p in part.named_parameters()} for part in parts]
    optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=1e-3)
    inputs = batch()
    with EventStorage():
        for _ in range(3):
            losses = detector(inputs)
            total = sum(losses.values())
            assert torch.isfinite(total), losses
            optimizer.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
            optimizer.step()
    assert len(losses) == (2 if retinanet else 4)
    for number, (part, old) in enumerate(zip(parts, before), start=1):
        for name, parameter in part.named_parameters():
            if number <= 2:
                assert parameter.grad is None
                assert torch.equal(parameter, old[name])
            else:
                assert parameter.grad.abs().sum() > 0, name
        if number > 2:
            assert any(not torch.equal(p, old[n]) for n, p in part.named_parameters())
    detector.eval()
    assert len(detector(inputs)) == 2


@pytest.mark.parametrize("model", [BIT, CLIP, CONVNEXT, "resnet50"])
def test_both_engines_make_the_same_pyramid_of_the_same_weights(model: str) -> None:
    words = ("MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.TIMM.MODEL", model)
    ours = build_detector(tiny_config("FPN", [*words, "MODEL.RESNETS.NORM", NORMS[model]]).cfg).eval()
    state = randomise(ours)
    names = model_names(ours)
    theirs = build_model(config(model)).eval()
    trunk = {names[n].removeprefix("backbone."): t for n, t in state.items() if n.startswith("backbone.")}
    said = theirs.backbone.load_state_dict(trunk, strict=True)
    assert not said.missing_keys
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected, maps = theirs.backbone(x), ours.backbone(x)
    assert list(maps) == list(expected) == ["p2", "p3", "p4", "p5", "p6"]
    for name, value in maps.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4 * float(expected[name].abs().max()))


@pytest.mark.parametrize("model", [BIT, CLIP, CONVNEXT])
def test_a_backbone_file_goes_through_detectron2s_checkpointer_and_back(model: str, tmp_path: Path) -> None:
    trunk = build_trunk(TimmSpec(model))
    state = randomise(trunk.body)
    card = Card("b", TimmSpec(model), (99.0,) * 3, (57.0,) * 3, "RGB", images=9)
    save_backbone(tmp_path / "b.safetensors", state, card)
    pyramid = ("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RESNETS.OUT_FEATURES", MAPS)
    cfg = config(model)
    cfg.merge_from_list([*pyramid, "MODEL.TIMM.MODEL", "", "MODEL.RESNETS.NORM", "FrozenBN"])
    cfg = apply_card(LoadedConfig(cfg, frozenset({"MODEL.BACKBONE.NAME"}), "a config"), card)
    assert cfg.MODEL.BACKBONE.NAME == "build_timm_fpn_backbone"
    detector = build_model(cfg)
    DetectionCheckpointer(detector).load(str(tmp_path / "b.safetensors"))
    found = detector.state_dict()
    assert all(torch.equal(found[f"backbone.bottom_up.{name}"], tensor) for name, tensor in state.items())
    saver = DetectionCheckpointer(detector, str(tmp_path))
    saver.save("model")
    again = build_model(cfg)
    DetectionCheckpointer(again).load(str(tmp_path / "model.pth"))
    assert all(torch.equal(tensor, found[name]) for name, tensor in again.state_dict().items())


def test_a_state_dict_with_holes_says_so_in_its_own_names() -> None:
    backbone = TimmBackbone("resnet18", norm="FrozenBN")
    state = backbone.state_dict()
    del state["res3.0.shortcut.norm.bias"]
    state["fc.weight"] = torch.zeros(1)
    said = backbone.load_state_dict(state, strict=False)
    assert (said.missing_keys, said.unexpected_keys) == (["res3.0.shortcut.norm.bias"], ["fc.weight"])
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"res3.0.shortcut.norm.bias\""):
        backbone.load_state_dict(state)


def test_what_cannot_be_built_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"MODEL.TIMM.MODEL is 'resnext50'; known: resnet18, .*resnetv2_152x4_bit"):
        build_backbone(config("resnext50"))
    with pytest.raises(UserError, match=r"PIXEL_MEAN has 4 channels; resnet50 takes 3"):
        build_backbone(config("resnet50"), ShapeSpec(channels=4))
    with pytest.raises(UserError, match=r"NORM is 'BN' with MODEL.TIMM.MODEL 'resnetv2_50x1_bit'; it takes GN"):
        build_backbone(config(BIT, **{"MODEL.RESNETS.NORM": "BN"}))
    with pytest.raises(UserError, match=r"FREEZE_AT is 7"):
        build_backbone(config(CLIP, **{"MODEL.BACKBONE.FREEZE_AT": 7}))
    stages = {"MODEL.RESNETS.OUT_FEATURES": ["res3", "res4"], "MODEL.FPN.IN_FEATURES": ["res3", "res4"]}
    with pytest.raises(UserError, match=r"OUT_FEATURES is \['res3', 'res4'\]; RetinaNet's p6 is made from res5"):
        build_backbone(config("resnet18", retinanet=True, **stages))
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    with pytest.raises(UserError, match=r"no MODEL.TIMM.MODEL; call .*add_scaleprior_config"):
        build_backbone(cfg)


def test_res5_head_of_c4_takes_a_plain_resnets_res5() -> None:
    """``build_timm_backbone`` in Detectron2's C4: the card of a ResNet fits, and the head's stride follows it."""
    cfg = config("resnet50", **{"MODEL.BACKBONE.NAME": "build_timm_backbone", "MODEL.RESNETS.OUT_FEATURES": ["res4"],
        "MODEL.ROI_HEADS.NAME": "Res5ROIHeads", "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
        "MODEL.RPN.IN_FEATURES": ["res4"], "MODEL.ROI_BOX_HEAD.NAME": "",
        "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64]]})  # fmt: skip
    card = Card("r", ResNetSpec(), (1.0,) * 3, (1.0,) * 3, "RGB")
    cfg = apply_card(LoadedConfig(cfg, frozenset(), "a config"), card)
    assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 is False
    names = {n for n in build_model(cfg).state_dict() if "res" in n.split(".")[1] and "num_batches" not in n}
    assert any(n.startswith("roi_heads.res5.") for n in names)
    assert {n for n in names if n.startswith("backbone.res5")} == set()
