"""Detectron's and Detectron2's files in Caffe2's names: norms by their names, facts of what is provably whose."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from benchmarks.exactness import randomise
from scaleprior.backbones import ReadOptions, ResNetSpec, build_trunk, read_backbone
from scaleprior.backbones.readers.facts import UnknownFactsError
from scaleprior.backbones.trunks.resnet.names import to_detectron2
from scaleprior.backbones.trunks.resnet.published import of_caffe2

BGR = (103.53, 116.28, 123.675)
PARTS = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "downsample": "branch1"}
SUFFIXES = {
    "gn": {"weight": "gn_s", "bias": "gn_b"},
    "fused": {"weight": "bn_s", "bias": "bn_b"},
    "unfused": {
        "weight": "bn_gamma", "bias": "bn_beta", "running_mean": "bn_running_mean", "running_var": "bn_running_var"
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def caffe2(state: dict[str, Tensor], norms: str) -> dict[str, np.ndarray]:
    """A ResNet of timm in the names of Detectron's files, as facebookresearch/detectron2#1688 prints their keys
    (unfused), and as ruotianluo/pytorch-resnet's convert_gn.py lists them (GroupNorm)."""
    blobs = {}
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        if kind == "num_batches_tracked" or (norms == "fused" and kind.startswith("running")):
            continue
        if module == "fc":
            blobs[f"pred_{kind[0]}"] = tensor.numpy()
            continue
        if match := re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn|downsample)\.?(\d)", module):
            part = "downsample" if match[3] == "downsample" else f"conv{match[4]}"
            is_norm = match[3] == "bn" or (match[3] == "downsample" and match[4] == "1")
            where = f"res{int(match[1]) + 1}_{match[2]}_{PARTS[part]}"
        else:
            is_norm, where = module == "bn1", "res_conv1" if module == "bn1" and norms != "gn" else "conv1"
        blobs[f"{where}_{SUFFIXES[norms][kind] if is_norm else 'w'}"] = tensor.numpy()
    return blobs


def made(path: Path, model: nn.Module, norms: str, **extra: np.ndarray) -> Path:
    with (path / "w.pkl").open("wb") as file:
        pickle.dump({"blobs": caffe2(model.state_dict(), norms) | extra}, file, protocol=2)
    return path / "w.pkl"


def difference(model: nn.Module, reading) -> float:
    """Largest |theirs - ours| over res2 .. res5, relative to the largest value of that map."""
    ours = build_trunk(reading.card.arch).load(reading.tensors).eval()
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        theirs = model.eval().forward_intermediates(x, intermediates_only=True)[-4:]
        maps = ours(x).values()
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(theirs, maps, strict=True))


def facts(reading) -> tuple:
    card = reading.card
    return card.pixel_mean, card.pixel_std, card.channel_order, card.stride_in_1x1, card.norm


def test_norms_named_gn_are_group_norms_with_the_stride_in_the_3x3(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = randomise(timm.create_model("resnet50_gn", num_classes=5), 0)
    reading = read_backbone(made(tmp_path, model, "gn"))
    assert facts(reading) == (BGR, (1, 1, 1), "BGR", False, "GN")
    assert reading.card.arch == ResNetSpec(norm="GN")
    assert reading.report.dropped == {"classifier": ["pred_w", "pred_b"]}
    assert difference(model, reading) == 0
    assert reading.report.facts["stride_in_1x1"].where.startswith(
        "published by Detectron2 for Detectron's ResNets with Group"
    )


def test_a_resnext_with_affine_norms_has_its_stride_in_the_3x3(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = randomise(timm.create_model("resnext50_32x4d", num_classes=5), 0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
            module.running_var.fill_(1)
    reading = read_backbone(made(tmp_path, model, "fused"))
    assert facts(reading) == (BGR, (1, 1, 1), "BGR", False, "FrozenBN")
    assert difference(model, reading) < 1e-6  # FrozenBN multiplies and adds in another order than BN


def test_detectron2s_default_weights_need_no_option(tmp_path: Path) -> None:
    """MSRA's R-50 with its statistics; a bias of conv1 that no program of Facebook's adds is left out and said."""
    torch.manual_seed(0)
    model = randomise(timm.create_model("resnet50", num_classes=5), 0)
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    path = made(tmp_path, model, "unfused", conv1_b=np.full(64, 0.25, np.float32))
    reading = read_backbone(path)
    assert facts(reading) == (BGR, (1, 1, 1), "BGR", True, "BN")
    assert str(reading.report.facts["pixel_std"]) == "publisher: published by Detectron2 for MSRA's Caffe2 weights"
    assert reading.report.dropped["unused bias"] == ["conv1_b"]
    assert "conv1_b is not zero (up to 0.25); Detectron and Detectron2 do not add it either" in reading.report.notes
    assert difference(model, reading) == 0


@pytest.mark.detectron2
def test_detectron2s_loader_reads_the_same_tensors(tmp_path: Path) -> None:
    from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names

    torch.manual_seed(0)
    model = randomise(timm.create_model("resnet50", num_classes=5), 0)
    blobs = {name: torch.from_numpy(array) for name, array in caffe2(model.state_dict(), "unfused").items()}
    theirs, _ = convert_c2_detectron_names(blobs)
    ours = read_backbone(made(tmp_path, model, "unfused")).tensors
    assert {name for name in theirs if not name.startswith("linear")} == set(ours)
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())


@pytest.mark.parametrize(
    ("spec", "std", "stride"),
    [
        (ResNetSpec(depth=101, norm="FrozenBN"), 1, True),
        (ResNetSpec(depth=152, norm="FrozenBN"), 1, True),
        (ResNetSpec(depth=101), 1, True),
        (ResNetSpec(depth=101, norm="GN"), 1, False),
        (ResNetSpec(depth=101, norm="FrozenBN", num_groups=32, width_per_group=8), 1, False),
        (ResNetSpec(depth=101, norm="FrozenBN", num_groups=64, width_per_group=4), 1, False),
        (ResNetSpec(depth=152, norm="FrozenBN", num_groups=32, width_per_group=8), 1, False),
        (ResNetSpec(depth=101, num_groups=32, width_per_group=8), 57.375, False),  # Detectron2's copy has statistics
    ],
)
def test_what_is_provably_whose(spec: ResNetSpec, std: float, stride: bool) -> None:
    known = of_caffe2(spec)
    assert known is not None
    assert (known.pixel_std[0], known.stride_in_1x1, known.channel_order, known.kind) == (
        std,
        stride,
        "BGR",
        "publisher",
    )


@pytest.mark.parametrize(
    "spec",
    [
        ResNetSpec(res2_out_channels=64, width_per_group=16, norm="FrozenBN"),
        ResNetSpec(depth=152),
        ResNetSpec(depth=101, num_groups=64, width_per_group=4),
        ResNetSpec(depth=152, norm="GN"),
        ResNetSpec(depth=18, norm="FrozenBN"),
    ],
)
def test_others_in_caffe2s_names_are_asked_for(spec: ResNetSpec) -> None:
    assert of_caffe2(spec) is None


@pytest.mark.parametrize("author", ["torchvision", "MOCO", "Detectron2 Model Zoo"])
def test_an_author_is_no_proof_of_pixels(tmp_path: Path, author: str) -> None:
    """The converters of Detectron2 and MoCo write their word into whatever they are given."""
    torch.manual_seed(0)
    state = to_detectron2(timm.create_model("resnet18", num_classes=0).state_dict())
    path = tmp_path / "converted.pkl"
    path.write_bytes(pickle.dumps({"model": {n: t.numpy() for n, t in state.items()}, "__author__": author}))
    with pytest.raises(UnknownFactsError) as caught:
        read_backbone(path)
    assert caught.value.absent == ("pixel_mean", "pixel_std", "channel_order")


def test_the_users_norm_beats_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet50_gn", num_classes=5)
    options = ReadOptions(norm="FrozenBN", pixel_mean=BGR, pixel_std=(1, 1, 1), channel_order="BGR", stride_in_1x1=True)
    assert read_backbone(made(tmp_path, model, "gn"), options).card.norm == "FrozenBN"
