"""Does a conversion keep the network? Forward the source library's model and ours, and compare every feature map.

Source files are built here from the source libraries or from the published names of a format, with random weights and
random norm statistics, so nothing is downloaded. The references run in code that shares nothing with the readers:
torchvision's and timm's own models and loaders, and for MSRA's names a forward pass written out below.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaleprior.backbones.export import export_backbone
from scaleprior.backbones.readers.facts import ReadOptions
from scaleprior.backbones.readers.read import read_backbone
from scaleprior.backbones.trunks.trunk import build_trunk
from scaleprior.backbones.weights import load_canonical, save_backbone
from scaleprior.errors import UserError

__all__ = ["FORMATS", "Row", "check_format", "facts_of", "randomise"]

Features = dict[str, Tensor]
Forward = Callable[[Tensor], Features]
_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


@dataclass(frozen=True)
class Row:
    """One format and depth.

    Attributes:
        difference: largest |ours - theirs| over res2 .. res5, relative to the largest value of that feature map.
        round_trip: exported and converted again, every tensor has the same bits; None where nothing exports.
    """

    format: str
    depth: int
    tensors: int
    difference: float
    round_trip: bool | None


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Random gains, biases and running statistics in every norm, so that a lost or swapped tensor shows; eval mode."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)):
                uniform(module.weight, 0.5, 1.0)
                uniform(module.bias, -0.3, 0.3)
            if isinstance(module, nn.BatchNorm2d):
                uniform(module.running_mean, -0.3, 0.3)
                uniform(module.running_var, 0.5, 1.5)
    return model.eval()


def _staged(model: nn.Module) -> Forward:
    """torchvision's and timm's ResNets run through their own layers."""

    def forward(x: Tensor) -> Features:
        act = getattr(model, "relu", None) or model.act1
        x = model.maxpool(act(model.bn1(model.conv1(x))))
        maps = {}
        for stage in range(1, 5):
            x = maps[f"res{stage + 1}"] = getattr(model, f"layer{stage}")(x)
        return maps

    return forward


def _torchvision(depth: int, seed: int, **kwargs: object) -> nn.Module:
    import torchvision

    torch.manual_seed(seed)
    return randomise(getattr(torchvision.models, f"resnet{depth}")(weights=None, **kwargs), seed)


def _timm(name: str, seed: int, **kwargs: object) -> nn.Module:
    import timm

    torch.manual_seed(seed)
    return randomise(timm.create_model(name, pretrained=False, **kwargs), seed)


def _torchvision_zip(depth: int, path: Path) -> tuple[Path, Forward]:
    model = _torchvision(depth, 1)
    torch.save(model.state_dict(), path / "source.pth")
    return path / "source.pth", _staged(model)


def _torchvision_old(depth: int, path: Path) -> tuple[Path, Forward]:
    model = _torchvision(depth, 2)
    torch.save(model.state_dict(), path / "source.pth", _use_new_zipfile_serialization=False)
    return path / "source.pth", _staged(model)


def _timm_safetensors(depth: int, path: Path) -> tuple[Path, Forward]:
    from safetensors.torch import save_file

    model = _timm(f"resnet{depth}", 3)
    save_file(model.state_dict(), path / "source.safetensors")
    return path / "source.safetensors", _staged(model)


def _timm_checkpoint(depth: int, path: Path) -> tuple[Path, Forward]:
    """As timm's train.py leaves it: the model and its moving average, here parallel's prefix as well."""
    model, average = _timm(f"resnet{depth}", 4), _timm(f"resnet{depth}", 5)
    states = {"state_dict": model.state_dict(), "state_dict_ema": average.state_dict()}
    wrapped = {key: {f"module.{n}": t for n, t in state.items()} for key, state in states.items()}
    torch.save({"epoch": 7, "arch": f"resnet{depth}", **wrapped}, path / "source.pth.tar")
    return path / "source.pth.tar", _staged(average)


def _hugging_face_shards(depth: int, path: Path) -> tuple[Path, Forward]:
    import json

    from safetensors.torch import save_file

    model = _timm(f"resnet{depth}", 6)
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    where = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(state)}
    for file in set(where.values()):
        save_file({name: state[name] for name in state if where[name] == file}, path / file)
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return index, _staged(model)


def _hugging_face_names(depth: int, path: Path) -> tuple[Path, Forward]:
    """The names of transformers' ``ResNetForImageClassification``, written out here from torchvision's model.

    Its bottlenecks stride in the 3x3 (``downsample_in_bottleneck`` False), as torchvision's.
    """
    from safetensors.torch import save_file

    model = _torchvision(depth, 8)
    kinds, state = {"conv": "convolution", "bn": "normalization"}, {}
    for name, tensor in model.state_dict().items():
        *where, last = name.split(".")
        if where == ["fc"]:
            new = "classifier.1"
        elif len(where) == 1:
            new = f"resnet.embedder.embedder.{kinds[where[0][:-1]]}"
        else:
            new = f"resnet.encoder.stages.{int(where[0][-1]) - 1}.layers.{where[1]}."
            if where[2] == "downsample":
                new += f"shortcut.{('convolution', 'normalization')[int(where[3])]}"
            else:
                new += f"layer.{int(where[2][-1]) - 1}.{kinds[where[2][:-1]]}"
        state[f"{new}.{last}"] = tensor
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    return path / "model.safetensors", _staged(model)


def _detectron2(depth: int, path: Path) -> tuple[Path, Forward]:
    """What Detectron2's own converter of torchvision's weights writes (names written out here, not ours)."""
    model = _torchvision(depth, 7)
    arrays = {}
    for name, tensor in model.state_dict().items():
        new = name if "layer" in name else f"stem.{name}"
        for stage in range(1, 5):
            new = new.replace(f"layer{stage}", f"res{stage + 1}")
        for number in range(1, 4):
            new = new.replace(f"bn{number}", f"conv{number}.norm")
        arrays[new.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")] = tensor.numpy()
    with (path / "source.pkl").open("wb") as file:
        pickle.dump({"model": arrays, "__author__": "torchvision", "matching_heuristics": True}, file)
    return path / "source.pkl", _staged(model)


def _msra(depth: int, path: Path) -> tuple[Path, Forward]:
    """MSRA's Caffe2 names: strides in the 1x1, affine norms without statistics, a classifier and momenta to drop."""
    generator = np.random.default_rng(depth)
    blobs: dict[str, np.ndarray] = {}

    def layer(name: str, outputs: int, inputs: int, side: int) -> None:
        scale = np.sqrt(2 / (inputs * side * side))
        blobs[f"{name}_w"] = generator.standard_normal((outputs, inputs, side, side), np.float32) * np.float32(scale)
        norm = "res_conv1_bn" if name == "conv1" else f"{name}_bn"
        blobs[f"{norm}_s"] = generator.uniform(0.4, 0.8, outputs).astype(np.float32)
        blobs[f"{norm}_b"] = generator.uniform(-0.3, 0.3, outputs).astype(np.float32)

    layer("conv1", 64, 3, 7)
    blobs["conv1_b"] = np.zeros(64, np.float32)
    inputs = 64
    for stage, blocks in enumerate(_BLOCKS[depth], start=2):
        width = 64 * 2 ** (stage - 2)
        for block in range(blocks):
            if block == 0:
                layer(f"res{stage}_0_branch1", 4 * width, inputs, 1)
            layer(f"res{stage}_{block}_branch2a", width, inputs, 1)
            layer(f"res{stage}_{block}_branch2b", width, width, 3)
            layer(f"res{stage}_{block}_branch2c", 4 * width, width, 1)
            inputs = 4 * width
    blobs |= {"fc1000_w": np.zeros((1000, 2048), np.float32), "fc1000_b": np.zeros(1000, np.float32)}
    blobs["conv1_w_momentum"] = np.ones_like(blobs["conv1_w"])
    with (path / "source.pkl").open("wb") as file:
        pickle.dump(blobs, file, protocol=2)
    return path / "source.pkl", lambda x: _msra_forward(blobs, _BLOCKS[depth], x)


def _msra_forward(blobs: Mapping[str, np.ndarray], blocks: tuple[int, ...], x: Tensor) -> Features:
    def convolve(x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        norm = "res_conv1_bn" if name == "conv1" else f"{name}_bn"
        x = F.conv2d(x, torch.from_numpy(blobs[f"{name}_w"]), stride=stride, padding=padding)
        gain, bias = (torch.from_numpy(blobs[f"{norm}_{part}"])[:, None, None] for part in "sb")
        return x * (gain / (1 + 1e-5) ** 0.5) + bias  # Detectron2's FrozenBN: mean 0, variance 1, eps 1e-5

    x = F.max_pool2d(F.relu(convolve(x, "conv1", 2, 3)), 3, 2, 1)
    maps = {}
    for stage, count in enumerate(blocks, start=2):
        for block in range(count):
            stride, name = (2 if block == 0 and stage > 2 else 1), f"res{stage}_{block}_branch"
            y = F.relu(convolve(x, f"{name}2a", stride))
            y = convolve(F.relu(convolve(y, f"{name}2b", 1, 1)), f"{name}2c")
            x = F.relu(y + (convolve(x, f"{name}1", stride) if block == 0 else x))
        maps[f"res{stage}"] = x
    return maps


def _bit(depth: int, path: Path) -> tuple[Path, Forward]:
    """BiT's published names, [H, W, in, out]; the reference is filled by timm's own reader of that file."""
    model = _timm(f"resnetv2_{depth}x{2 if depth == 152 else 1}_bit", depth, num_classes=5)
    arrays = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if parts[0] == "stages":
            letter = "a" if parts[4] == "downsample" else "abc"[int(parts[4][-1]) - 1]
            where = f"resnet/block{int(parts[1]) + 1}/unit{int(parts[3]) + 1:02d}/{letter}/"
            where += "proj/" if parts[4] == "downsample" else ""
        else:
            where = {"stem": "resnet/root_block/", "norm": "resnet/", "head": "resnet/head/conv2d/"}[parts[0]]
        if parts[0] == "head":
            kind = {"weight": "kernel", "bias": "bias"}[parts[-1]]
        elif tensor.ndim == 4:
            kind = "standardized_conv2d/kernel"
        else:
            kind = "group_norm/" + {"weight": "gamma", "bias": "beta"}[parts[-1]]
        arrays[where + kind] = tensor.permute(2, 3, 1, 0).numpy() if tensor.ndim == 4 else tensor.numpy()
    np.savez(path / "source.npz", **arrays)
    reference = _timm(f"resnetv2_{depth}x{2 if depth == 152 else 1}_bit", 99, num_classes=5)
    reference.load_pretrained(str(path / "source.npz"))
    return path / "source.npz", _intermediates(reference)


def _clip(depth: int, path: Path) -> tuple[Path, Forward]:
    """OpenAI's names; the reference is filled through timm's own converter."""
    from timm.models.byobnet import checkpoint_filter_fn

    model = _timm(f"resnet{depth}_clip", depth)
    parts = {"conv1_1x1": 1, "conv2_kxk": 2, "conv3_1x1": 3}
    state = {"logit_scale": torch.tensor(4.6), "transformer.resblocks.0.ln_1.weight": torch.ones(4)}
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        words = name.split(".")
        if words[0] == "stem":
            state[f"visual.{words[2]}{words[1][-1]}.{words[3]}"] = tensor
        elif words[0] == "stages" and words[3] == "shortcut":
            kind = {"conv": 0, "bn": 1}[words[5]]
            state[f"visual.layer{int(words[1]) + 1}.{words[2]}.downsample.{kind}.{words[6]}"] = tensor
        elif words[0] == "stages":
            state[f"visual.layer{int(words[1]) + 1}.{words[2]}.{words[4]}{parts[words[3]]}.{words[5]}"] = tensor
    state |= {
        "input_resolution": torch.tensor(224),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(49408),
    }
    state["visual.attnpool.positional_embedding"] = model.state_dict()["head.pos_embed"]
    torch.save(state, path / "source.pt")
    reference = _timm(f"resnet{depth}_clip_gap", 99, num_classes=0)
    reference.load_state_dict(checkpoint_filter_fn(dict(state), reference), strict=False)
    return path / "source.pt", _intermediates(reference)


def _convnext(depth: int, path: Path) -> tuple[Path, Forward]:
    model = _scaled(_timm(_CONVNEXT[depth], depth, num_classes=5))
    torch.save(model.state_dict(), path / "source.pth")
    return path / "source.pth", _intermediates(model)


def _convnext_torchvision(depth: int, path: Path) -> tuple[Path, Forward]:
    """torchvision's names; the reference is torchvision's own stages, which stand at odd places in ``features``."""
    from torchvision import models

    torch.manual_seed(depth)
    model = _scaled(randomise(getattr(models, _CONVNEXT[depth])(), depth))
    torch.save(model.state_dict(), path / "source.pth")

    def forward(x: Tensor) -> Features:
        maps = {}
        for number, layer in enumerate(model.features):
            x = layer(x)
            if number % 2:
                maps[f"res{2 + number // 2}"] = x
        return maps

    return path / "source.pth", forward


def _scaled(model: nn.Module) -> nn.Module:
    """Layer scales at which a block shows in the map: fresh ones are 1e-6."""
    for name, tensor in model.state_dict().items():
        if name.endswith((".gamma", ".layer_scale")):
            tensor.uniform_(0.1, 0.5, generator=torch.Generator().manual_seed(len(name)))
    return model


_CONVNEXT = {59: "convnext_tiny", 113: "convnext_small"}


def _intermediates(model: nn.Module) -> Forward:
    """timm's own way to the feature maps; the last one is that of ``forward_features``."""

    def forward(x: Tensor) -> Features:
        maps = model.forward_intermediates(x, intermediates_only=True)[-4:]
        return dict(zip(("res2", "res3", "res4", "res5"), [*maps[:3], model.forward_features(x)]))

    return forward


_ALL, _BOTTLENECKS = (18, 34, 50, 101, 152), (50, 101, 152)
FORMATS: dict[str, tuple[tuple[int, ...], Callable[[int, Path], tuple[Path, Forward]]]] = {
    "torchvision .pth": (_ALL, _torchvision_zip),
    "torchvision .pth (old format)": (_ALL, _torchvision_old),
    "timm .safetensors": (_ALL, _timm_safetensors),
    "timm checkpoint with EMA": (_ALL, _timm_checkpoint),
    "hugging face shards": (_BOTTLENECKS, _hugging_face_shards),
    "hugging face transformers": (_ALL, _hugging_face_names),
    "detectron2 .pkl": (_ALL, _detectron2),
    "MSRA .pkl (Caffe2)": (_BOTTLENECKS, _msra),
    "BiT .npz": (_BOTTLENECKS, _bit),
    "CLIP (OpenAI names)": ((50, 101), _clip),
    "ConvNeXt (timm names)": (tuple(_CONVNEXT), _convnext),
    "ConvNeXt (torchvision names)": (tuple(_CONVNEXT), _convnext_torchvision),
}
"""Format -> (depths it exists in, builder of a source file and of the reference's forward pass)."""
STATED = ("MSRA .pkl (Caffe2)", "BiT .npz", "CLIP (OpenAI names)")
"""Formats whose files say what they are; of the others somebody has to."""


def facts_of(kind: str) -> ReadOptions:
    """What a user has to say of a file of this format."""
    return ReadOptions() if kind in STATED else ReadOptions(assume="torchvision")


def check_format(kind: str, depth: int, folder: Path, *, side: int = 64) -> Row:
    """Build a source file in ``folder``, convert it, compare features, and go round through every export.

    Args:
        side: of the random image in pixels.

    Raises:
        UserError: an unknown format, or a depth it does not exist in.
    """
    if kind not in FORMATS or depth not in FORMATS[kind][0]:
        raise UserError(f"no format {kind!r} of depth {depth}", hint=f"formats: {', '.join(FORMATS)}")
    folder.mkdir(parents=True, exist_ok=True)
    path, reference = FORMATS[kind][1](depth, folder)
    reading = read_backbone(path, facts_of(kind))
    save_backbone(folder / "converted.safetensors", reading.tensors, reading.card)
    tensors, card = load_canonical(folder / "converted.safetensors")
    trunk = build_trunk(card.arch, norm_eps=card.norm_eps).eval().load(tensors)
    x = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(depth))
    with torch.inference_mode():
        ours, theirs = trunk(x), reference(x)
    worst = 0.0
    for name, expected in theirs.items():
        gap = float((ours[name] - expected).abs().max() / expected.abs().max())
        worst = max(worst, gap if np.isfinite(gap) else float("inf"))
    return Row(kind, depth, len(tensors), worst, _round_trip(folder, tensors))


def _round_trip(folder: Path, tensors: Mapping[str, Tensor]) -> bool | None:
    _, card = load_canonical(folder / "converted.safetensors")
    results = []
    for name in ("again.pkl", "again.pth"):
        try:
            export_backbone(tensors, card, folder / name)
        except UserError:
            continue  # that program has no place for such a trunk, which is a limit and no fault
        # the card travels in a .pkl alone
        again = read_backbone(folder / name, ReadOptions(assume=None if name.endswith(".pkl") else "torchvision"))
        stored = save_backbone(folder / "again.safetensors", again.tensors, again.card)
        results.append(stored.tensors_sha256 == card.tensors_sha256)
    return all(results) if results else None
