"""Trunks of timm in the torchvision engine: from a backbone file through training to evaluation; what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torchvision.ops import FrozenBatchNorm2d

from scaleprior.backbones import Card, TimmSpec, build_trunk, save_backbone
from scaleprior.backbones.trunks import Model, TrunkFamily, family as registry
from scaleprior.backbones.trunks.freezing import freeze_norms
from scaleprior.backbones.trunks.trunk import detection_trunk
from scaleprior.backbones.weights import load_canonical
from scaleprior.config import LoadedConfig
from scaleprior.detect import get_engine
from scaleprior.detect.faster_rcnn.model import Detector, build_detector
from scaleprior.detect.faster_rcnn.model_file import fill_backbone, model_names
from scaleprior.detect.faster_rcnn.parts.backbone import fuse_frozen_norms
from scaleprior.errors import UserError
from tests.detect.conftest import tiny_config

BIT, CLIP, CONVNEXT = "resnetv2_50x1_bit", "resnet50_clip", "convnext_tiny"
TRUNKS = (BIT, CLIP, CONVNEXT)
NORM = {BIT: "GN", CLIP: "FrozenBN", CONVNEXT: "LN", "resnet18": "BN", "preact_tiny": "FrozenBN"}
PIXELS = (100.0, 110.0, 120.0)


def trunk_config(model: str, *overrides: str) -> LoadedConfig:
    words = ("MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.TIMM.MODEL", model)
    return tiny_config("FPN", [*words, "MODEL.RESNETS.NORM", NORM[model], *overrides])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A canonical file of each kind, with fresh weights and norms whose numbers can be told apart."""
    folder, found = tmp_path_factory.mktemp("trunks"), {}
    for model in TRUNKS:
        torch.manual_seed(3)
        state = build_trunk(TimmSpec(model)).body.state_dict()
        state = {k: v + 0.1 * torch.rand_like(v) if v.ndim == 1 else v for k, v in state.items() if v.ndim}
        found[model] = folder / f"{model}.safetensors"
        save_backbone(found[model], state, Card(model, TimmSpec(model), PIXELS, PIXELS, "RGB", images=9))
    return found


def _step(detector: Detector) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 60, 96), dtype=torch.uint8, generator=generator)
    return detector.losses([image], [torch.tensor([[8.0, 8, 40, 50]])], [torch.tensor([1])])


@pytest.mark.parametrize("model", TRUNKS)
def test_every_tensor_of_the_file_lands_under_its_timm_name_and_makes_the_trunks_maps(
    model: str, files: dict[str, Path]
) -> None:
    tensors, card = load_canonical(files[model])
    detector = build_detector(trunk_config(model).cfg).eval()
    report = fill_backbone(detector, tensors, "file")
    assert sorted(report.matched) == sorted(f"backbone.bottom_up.{name}" for name in tensors)
    assert report.unexpected == ()
    assert not [name for name in report.missing if "bottom_up" in name]
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = build_trunk(card.arch).eval().load(tensors).features(x, normalised=True)
        for name, value in detector.backbone.bottom_up(x).items():
            # FrozenBN is folded into the convolution before it; GN runs the same kernels
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4 * float(expected[name].max()))


def test_clips_fused_norms_compute_the_same_and_so_do_their_gradients() -> None:
    torch.manual_seed(0)
    plain = freeze_norms(build_trunk(TimmSpec(CLIP))).double()
    for norm in (m for m in plain.modules() if isinstance(m, FrozenBatchNorm2d)):
        for tensor in norm.buffers():
            tensor.uniform_(0.5, 1.5)
    fused = copy.deepcopy(plain)
    fuse_frozen_norms(fused.arch.family.conv_norms(fused.body))
    kinds = {type(m).__name__ for m in fused.modules() if isinstance(m, FrozenBatchNorm2d)}
    assert kinds == {"_FusedNormAct"}
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    outputs = [trunk(x)["res5"] for trunk in (plain, fused)]
    torch.testing.assert_close(outputs[1], outputs[0])
    for output in outputs:
        output.square().mean().backward()
    for (name, a), b in zip(plain.named_parameters(), fused.parameters()):
        torch.testing.assert_close(b.grad, a.grad, msg=name)


class _PreActivation(torch.nn.Sequential):
    """Norm, ReLU, convolution, of one width: nothing but the order tells that the norm is not the convolution's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn1, self.relu = torch.nn.BatchNorm2d(width), torch.nn.ReLU()
        self.conv1 = torch.nn.Conv2d(width, width, 3, 2, 1, bias=False)


class _PreActivations(TrunkFamily):
    name = "preact"
    models: ClassVar = {"preact_tiny": Model(blocks=(1, 1, 1, 1), stem=8, channels=(8, 8, 8, 8), depth=6)}

    def build(self, spec: TimmSpec) -> torch.nn.Module:
        body = torch.nn.Module()
        body.stem = torch.nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        body.stages = torch.nn.Sequential(*(_PreActivation(8) for _ in range(4)))
        return body


def test_a_norm_before_its_convolution_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outside family that names its modules as ResNets do; what the detector sees is what the trunk makes."""
    monkeypatch.setitem(registry._REGISTERED, "preact", _PreActivations())
    detector = build_detector(trunk_config("preact_tiny").cfg).eval()
    trunk = detection_trunk(TimmSpec("preact_tiny"), norm="FrozenBN", freeze_stages=0)
    for norm in (module for module in trunk.modules() if isinstance(module, FrozenBatchNorm2d)):
        for tensor in norm.buffers():
            tensor.uniform_(0.5, 1.5)
    detector.backbone.bottom_up.trunk.body.load_state_dict(trunk.body.state_dict())
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(dict(detector.backbone.bottom_up(x)), trunk.features(x))


@pytest.mark.parametrize("model", TRUNKS)
def test_gradients_reach_the_unfrozen_stages_only(model: str) -> None:
    detector = build_detector(trunk_config(model, "MODEL.BACKBONE.FREEZE_AT", "3").cfg).train()
    losses = _step(detector)
    assert torch.isfinite(sum(losses.values()))
    sum(losses.values()).backward()
    body = detector.backbone.bottom_up.trunk.body
    for number, part in enumerate((body.stem, *body.stages), start=1):
        for name, parameter in part.named_parameters():
            assert parameter.requires_grad == (number > 3), name
            assert (parameter.grad is not None) == (number > 3), name
        if number > 3:
            assert sum(float(p.grad.abs().sum()) for p in part.parameters()) > 0


def test_a_plain_resnet_through_timm_is_the_same_detector() -> None:
    ours = build_detector(trunk_config("resnet18").cfg)
    words = ["MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"]
    theirs = build_detector(tiny_config("FPN", words).cfg)
    assert model_names(ours) == model_names(theirs)
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(1, 3, 64, 64)
    for a, b in zip(ours.eval().backbone(x).values(), theirs.eval().backbone(x).values()):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("trunk", "norm", "kept", "learned"),
    [
        (CLIP, "FrozenBN", "stages.0.0.conv1_1x1.conv.weight", "stages.1.0.conv1_1x1.conv.weight"),
        (CONVNEXT, "LN", "stages.0.blocks.0.conv_dw.weight", "stages.1.blocks.0.conv_dw.weight"),
    ],
)
def test_one_config_trains_and_evaluates_whatever_trunk_the_card_names(
    trunk: str, norm: str, kept: str, learned: str, files: dict[str, Path], tmp_path: Path, coco_overrides: list[str]
) -> None:
    """The YAML says build_resnet_fpn_backbone, for training and for evaluation; the file is another trunk's."""
    words = ["MODEL.RESNETS.NORM", norm, "MODEL.BACKBONE.FREEZE_AT", "2", "SOLVER.MAX_ITER", "2"]
    pixels = [x for key in ("MEAN", "STD") for x in (f"MODEL.PIXEL_{key}", str(list(PIXELS)))]
    loaded = tiny_config("FPN", [*coco_overrides, *words, *pixels])
    assert loaded.cfg.MODEL.BACKBONE.NAME == "build_resnet_fpn_backbone"
    engine = get_engine("torchvision")
    model = engine.train(loaded, files[trunk], tmp_path / "run")
    trained, given = load_file(model), load_canonical(files[trunk])[0]
    for name, same in ((kept, True), (learned, False)):
        assert torch.equal(trained[f"backbone.bottom_up.{name}"], given[name]) == same
    fixed = [n for n in given if n.startswith("stem.") or n.endswith("running_var")]
    assert all(torch.equal(trained[f"backbone.bottom_up.{name}"], given[name]) for name in fixed)
    (result,) = engine.evaluate(loaded, model, tmp_path / "run").values()
    assert 0 <= result.ap <= 100
    assert json.loads((tmp_path / "run" / "results.json").read_text())["engine"] == "torchvision"
    with pytest.raises(UserError, match=rf"MODEL.TIMM.MODEL is '{BIT}'; use MODEL.TIMM.MODEL '{trunk}'"):
        engine.evaluate(trunk_config(BIT, *coco_overrides, *pixels, *words), model, tmp_path / "run")


def test_contradictions_are_refused_before_anything_is_written(
    files: dict[str, Path], tmp_path: Path, coco_overrides: list[str]
) -> None:
    engine = get_engine("torchvision")
    with pytest.raises(UserError, match=r"NORM is 'BN'.*use MODEL.PIXEL_MEAN '\[100.0, .* MODEL.RESNETS.NORM GN"):
        engine.train(tiny_config("FPN", coco_overrides), files[BIT], tmp_path / "run")
    with pytest.raises(UserError, match=r"C4's head is the res5 of a ResNet"):
        engine.train(tiny_config("C4", coco_overrides), files[CLIP], tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "key", "value", "message"),
    [
        (BIT, "MODEL.BACKBONE.NAME", "build_timm_backbone", "needs the detectron2 engine"),
        (BIT, "MODEL.BACKBONE.NAME", "build_retinanet_timm_fpn_backbone", "needs the detectron2 engine"),
        (BIT, "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RESNETS; use MODEL.BACKBONE.NAME build_timm_"),
        (BIT, "MODEL.TIMM.MODEL", "resnest50", "known: resnet18, resnet34, .*resnetv2_50x1_bit"),
        (BIT, "MODEL.TIMM.MODEL", "", "MODEL.TIMM.MODEL is not set"),
        (BIT, "MODEL.RESNETS.NORM", "FrozenBN", "it takes GN"),
        (CLIP, "MODEL.RESNETS.NORM", "GN", "it takes BN, FrozenBN"),
        (CLIP, "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3']", "contain IN_FEATURES"),
        (CLIP, "MODEL.BACKBONE.FREEZE_AT", "6", "whole number from 0 to 5"),
    ],
)
def test_values_that_cannot_be_honoured_are_refused_by_name(model: str, key: str, value: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build_detector(trunk_config(model, key, value).cfg)
    assert key in str(caught.value)


def test_a_pyramid_on_some_stages_builds_no_others() -> None:
    narrow = ["MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3']", "MODEL.FPN.IN_FEATURES", "['res2', 'res3']"]
    maps = ["MODEL.RPN.IN_FEATURES", "['p2', 'p3', 'p4']", "MODEL.ROI_HEADS.IN_FEATURES", "['p2', 'p3']"]
    loaded = trunk_config(BIT, *narrow, *maps, "MODEL.ANCHOR_GENERATOR.SIZES", "[[8, 16]]")
    detector = build_detector(loaded.cfg).train()
    sum(_step(detector).values()).backward()
    assert [n for n, p in detector.named_parameters() if p.grad is None] == []
    full = detection_trunk(TimmSpec(BIT), norm="GN", freeze_stages=0).body.state_dict()
    report = fill_backbone(detector, full, "file")
    assert {name.split(".blocks")[0] for name in report.unexpected} >= {"stages.2", "stages.3"}
    assert "backbone.bottom_up.stages.2.blocks.0.norm1.weight" in report.matched
