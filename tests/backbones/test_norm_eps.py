"""Weights whose norms have another eps: the features are those of the model they come from, in every form they take."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn
from torchvision.models import detection, resnet18, resnet50
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FrozenBatchNorm2d

from benchmarks.exactness import _staged, randomise
from scaleprior.backbones import (
    Backbone,
    Card,
    ResNetSpec,
    TimmSpec,
    build_trunk,
    export_backbone,
    load_backbone,
    save_backbone,
    to_detectron2,
)
from scaleprior.backbones.pictures import drawn_image, feature_maps
from scaleprior.backbones.readers.limits import RefusedFileError
from scaleprior.backbones.readers.norm_eps import fold_eps
from scaleprior.backbones.trunks import family as registry
from scaleprior.backbones.trunks.model import MAPS
from scaleprior.backbones.trunks.published import Origin
from scaleprior.backbones.trunks.trunk import detection_trunk
from scaleprior.backbones.verify import verify_backbone
from scaleprior.backbones.weights import read_card, tensors_sha256
from scaleprior.errors import UserError
from tests.backbones.trunks.plain_family import Plain

FACTS = {"pixel_mean": (127.5,) * 3, "pixel_std": (127.5,) * 3, "channel_order": "RGB", "stride_in_1x1": False}
# Of the largest value of a map. The same function in another order of float32 operations is 5e-7 off at most here (a
# norm as one kernel or as product and sum, a variance split in two); an eps of 1e-5 in place of 0 is more than 1e-1.
ROUNDING = 5e-6


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def quiet(model: nn.Module, *, smallest: float = 1e-12) -> nn.Module:
    """Random norms; every fifth channel varies as little as an input that is nearly dead: ``smallest`` to 1e-5."""
    randomise(model, 0)
    generator = torch.Generator().manual_seed(1)
    for norm in (m for m in model.modules() if isinstance(m, FrozenBatchNorm2d)):
        for name, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5), ("running_var", 0.5)):
            getattr(norm, name).copy_(low + torch.rand(norm.weight.shape, generator=generator))
    layers = dict(model.named_modules())
    for name, norm in layers.items():
        if not isinstance(norm, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            continue
        before = name.replace("bn", "conv").replace("downsample.1", "downsample.0")
        low, high = np.log10(smallest), -5.0
        count = len(norm.running_var[::5])
        variance = 10 ** (low + (high - low) * torch.rand(count, generator=generator))
        norm.running_var[::5] = variance
        norm.running_mean[::5] *= variance.sqrt()
        layers[before].weight.data[::5] *= variance.sqrt().view(-1, 1, 1, 1)
    return model


def difference(maps: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    return max(float((maps[k] - v).abs().max() / v.abs().max()) for k, v in expected.items())


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def converted(model: nn.Module, folder: Path, **facts: object) -> Backbone:
    """Through a file of the source's and through one of ours."""
    torch.save(model.state_dict(), folder / "source.pth")
    backbone = load_backbone(folder / "source.pth", **{**FACTS, **facts})
    save_backbone(folder / "ours.safetensors", backbone.tensors, backbone.card)
    return load_backbone(folder / "ours.safetensors")


def test_torchvisions_coco_detectors_keep_their_eps_of_0(tmp_path: Path, pixels: Tensor) -> None:
    """The real case, built as ``fasterrcnn_resnet50_fpn`` is with its COCO weights; to the last bit where frozen."""
    body = resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
    model = detection.FasterRCNN(_resnet_fpn_extractor(body, 3), 91)
    body = quiet(model.backbone.body)
    overwrite_eps(model, 0.0)
    backbone = converted(model, tmp_path, norm_eps=0)  # the whole detector's file
    assert (backbone.card.norm_eps, backbone.card.norm) == (0, "BN")
    assert read_card(tmp_path / "ours.safetensors").to_dict()["norm_eps"] == 0
    frozen = detection_trunk(backbone.card.arch, norm="FrozenBN", freeze_stages=2, norm_eps=backbone.card.norm_eps)
    with torch.inference_mode():
        expected = dict(zip(("res2", "res3", "res4", "res5"), body(pixels).values()))
        assert difference(backbone.trunk().eval()(pixels), expected) <= ROUNDING
        maps = frozen.load(backbone.tensors)(pixels)
        assert all(torch.equal(maps[name], value) for name, value in expected.items())
        own = replace(backbone.card, norm_eps=1e-5)
        assert difference(Backbone(backbone.tensors, own, backbone.report).trunk().eval()(pixels), expected) > 0.1
    verdict = verify_backbone(backbone.tensors, backbone.card)
    assert not [f for f in verdict.findings if f.level == "bad"]
    assert sum(row["dead_channels"] for row in verdict.statistics.values()) == 0


@pytest.mark.parametrize("eps", [0.0, 1e-8, 1e-6, 3e-5, 1e-3])
@pytest.mark.parametrize("smallest", [1e-12, None])
def test_variances_take_up_what_they_can(eps: float, smallest: float | None, tmp_path: Path, pixels: Tensor) -> None:
    """More eps than torch's always, less where no variance is as small as the difference; never a negative variance."""
    model = resnet18(norm_layer=partial(nn.BatchNorm2d, eps=eps or torch.finfo(torch.float32).tiny))
    quiet(model, smallest=smallest) if smallest else randomise(model, 0)
    backbone = converted(model.eval(), tmp_path, norm_eps=eps)
    kept = smallest is not None and eps < 1e-5
    assert backbone.card.norm_eps == (eps if kept else 1e-5)
    where = "given" if kept else f"given: {eps:g}; the variances hold the difference"
    assert backbone.card.facts["norm_eps"] == Origin("user", where)
    before, after = (t["res2.0.conv1.norm.running_var"] for t in (to_detectron2(model.state_dict()), backbone.tensors))
    assert torch.equal(before, after) == kept
    assert all((t > 0).all() for name, t in backbone.tensors.items() if name.endswith("running_var"))
    with torch.inference_mode():
        assert difference(backbone.trunk().eval()(pixels), _staged(model)(pixels)) <= ROUNDING


def _group_norms(eps: float) -> nn.Module:
    return resnet18(norm_layer=lambda channels: nn.GroupNorm(32, channels, eps=eps))


def _of_timm(model: str, eps: float) -> nn.Module:
    found = timm.create_model(model)
    for module in found.modules():  # the weights of BiT's convolutions have an eps of their own
        if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)):
            module.eps = eps
    return found


@pytest.mark.parametrize(
    ("make", "norm", "eps"),
    [
        (_group_norms, "GN", 0.0),
        (_group_norms, "GN", 1e-2),
        (partial(_of_timm, "resnetv2_50x1_bit"), "GN", 1e-2),
        (partial(_of_timm, "convnext_tiny"), "LN", 1e-3),
        (partial(_of_timm, "resnet50_clip_gap"), "BN", 0.0),
    ],
)
def test_norms_of_every_family_keep_theirs(
    make: Callable[[float], nn.Module], norm: str, eps: float, tmp_path: Path, pixels: Tensor
) -> None:
    torch.manual_seed(0)
    model = randomise(make(eps), 0)
    for module in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        module.running_var[0] = 1e-7  # such that it cannot be folded
    backbone = converted(model, tmp_path, norm_eps=eps, norm="GN" if make is _group_norms else None)
    assert (backbone.card.norm, backbone.card.norm_eps) == (norm, eps)
    usual = build_trunk(backbone.card.arch).eval().load(backbone.tensors)
    with torch.inference_mode():
        if make is _group_norms:
            expected = _staged(model)(pixels)
        else:
            last, maps = model.forward_intermediates(pixels)
            expected = {**dict(zip(MAPS, maps[-4:])), "res5": last}
        assert difference(backbone.trunk().eval()(pixels), expected) <= ROUNDING
        assert difference(usual(pixels), expected) > 10 * ROUNDING


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "SyncBN"])
def test_every_norm_that_a_detector_makes_of_them_has_the_eps(norm: str) -> None:
    for spec in (ResNetSpec(depth=18), TimmSpec("resnet50_clip")):
        trunk = detection_trunk(spec, norm=norm, freeze_stages=2, norm_eps=1e-3).keep(["res2", "res3"])
        found = {(type(m).__name__, m.eps) for m in trunk.modules() if "BatchNorm" in type(m).__name__}
        assert {eps for _, eps in found} == {1e-3}
        assert len(found) == (1 if norm == "FrozenBN" else 2)


def test_a_trunk_whose_norms_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._REGISTERED, "plain", Plain())
    monkeypatch.setattr(Plain, "build", lambda self, spec: nn.Conv2d(3, 8, 1))
    with pytest.raises(UserError, match=r"plain_tiny has no norm whose eps can be set to 0.001"):
        build_trunk(TimmSpec("plain_tiny"), norm_eps=1e-3)
    build_trunk(TimmSpec("plain_tiny"), norm_eps=1e-5)  # as the family has it


def test_no_eps_and_a_variance_of_0_is_nan_in_its_own_network(tmp_path: Path, pixels: Tensor) -> None:
    model = quiet(resnet18(norm_layer=partial(FrozenBatchNorm2d, eps=0)))
    model.layer2[0].bn1.running_var[3] = 0
    assert torch.isnan(_staged(model)(pixels)["res3"]).any()
    said = r"with eps 0, 1 norms divide by variances of 0 \(res3.0.conv1.norm\)"
    with pytest.raises(RefusedFileError, match=said) as error:
        converted(model, tmp_path, norm_eps=0)
    assert "their own network gives NaN there" in str(error.value)
    backbone = converted(model, tmp_path, norm_eps=0, allow_nonfinite=True)
    assert backbone.card.norm_eps == 0


@given(
    variances=arrays(np.float32, 40, elements=st.floats(0, 2, width=32, allow_subnormal=False)),
    eps=st.floats(0, 1e-2),
    own=st.sampled_from([1e-5, 1e-3, 1e-6]),
)
def test_what_is_folded_is_the_same_sum_to_float32s_rounding(variances: np.ndarray, eps: float, own: float) -> None:
    folded = fold_eps({"x.running_var": variances}, eps, own)
    exact = variances.astype(np.float64) + eps
    if folded is None:
        assert (exact <= own * (1 + 1e-6)).any()
        return
    (after,) = folded.values()
    assert (after > 0).all()
    assert np.allclose(after + np.float32(own), exact, rtol=4 * 2**-24, atol=0)


def test_exports_are_of_the_other_programs_eps_or_refused(tmp_path: Path, pixels: Tensor) -> None:
    model = quiet(resnet18(norm_layer=partial(FrozenBatchNorm2d, eps=0)))
    backbone = converted(model, tmp_path, norm_eps=0)
    with torch.inference_mode():
        expected = _staged(model)(pixels)
    for name in ("w.pkl", "w.pth"):
        with pytest.raises(UserError, match=r"eps 0, those of .* have 1e-05, and some running variances are") as error:
            backbone.export(tmp_path / name)
        assert "frozen_norms=True puts it into the gains" in str(error.value)
        assert not (tmp_path / name).exists()
        card = backbone.export(tmp_path / name, frozen_norms=True)
        assert card.norm_eps == 1e-5
        again = load_backbone(tmp_path / name, **({**FACTS, "norm_eps": 1e-5} if name == "w.pth" else {}))
        assert again.card.norm_eps == 1e-5
        assert difference(again.trunk().eval()(pixels), expected) <= ROUNDING
    # as torchvision and stock Detectron2 compute, with their own loaders
    theirs = resnet18().eval()
    theirs.load_state_dict(torch.load(tmp_path / "w.pth", weights_only=True), strict=False)
    with torch.inference_mode():
        assert difference(_staged(theirs)(pixels), expected) <= ROUNDING
    content = pickle.loads((tmp_path / "w.pkl").read_bytes())
    named = {name: torch.from_numpy(values) for name, values in content["model"].items()}
    assert json.loads(content["scaleprior_card"])["tensors_sha256"] == tensors_sha256(named)


def test_pictures_show_what_detectors_see(tmp_path: Path) -> None:
    model = randomise(_group_norms(1e-2), 0)
    backbone = converted(model, tmp_path, norm_eps=1e-2, norm="GN")
    image = drawn_image(64)
    maps = feature_maps(backbone.tensors, backbone.card, image)
    x = (torch.from_numpy(image).permute(2, 0, 1)[None].float() - 127.5) / 127.5
    with torch.inference_mode():
        expected = _staged(model)(x)
    assert difference({k: torch.from_numpy(v)[None] for k, v in maps.items()}, expected) <= ROUNDING
    assert difference(backbone.features(torch.from_numpy(image).permute(2, 0, 1)), expected) <= ROUNDING


def test_what_folds_is_exported_without_asking(tmp_path: Path, pixels: Tensor) -> None:
    """A card with another eps whose variances can take it up, as a program of one's own may write it."""
    model = randomise(resnet18(norm_layer=partial(nn.BatchNorm2d, eps=1e-3)), 0)
    tensors = to_detectron2(model.state_dict())
    card = Card("own", ResNetSpec(depth=18), (0.0,) * 3, (1.0,) * 3, "RGB", norm_eps=1e-3)
    assert export_backbone(tensors, card, tmp_path / "w.pkl").norm_eps == 1e-5
    again = load_backbone(tmp_path / "w.pkl")
    with torch.inference_mode():
        assert difference(again.trunk().eval()(pixels), _staged(model)(pixels)) <= ROUNDING
    group = Card("group", ResNetSpec(depth=18, norm="GN"), (0.0,) * 3, (1.0,) * 3, "RGB", norm_eps=1e-3)
    with pytest.raises(UserError, match=r"GN has no variances to take up the difference"):
        export_backbone(build_trunk(group.arch).canonical_state(), group, tmp_path / "g.pkl", frozen_norms=True)
