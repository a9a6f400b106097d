"""How publishers write the files that the twins stand for, and how they load them: containers, wrappers, names.

Nothing is copied from them: each function does what the code that its entry's ``proof`` names is seen to do.
"""

from __future__ import annotations

import copy
import itertools
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.backbones.numbers import fill_normal
from tests.backbones.readers.python2 import python2_pickle
from tests.backbones.zoo.clip_twins import openai_names, text_tower

__all__ = [
    "caffe2_name",
    "load_bare",
    "load_bit",
    "load_clip",
    "load_detectron2",
    "load_encoder",
    "load_renamed",
    "load_safetensors",
    "load_state",
    "load_swav",
    "shaken",
    "unpickled",
    "without_module",
    "write_bare",
    "write_bit",
    "write_caffe2",
    "write_densecl",
    "write_detectron2",
    "write_miil",
    "write_moco",
    "write_moco_v3",
    "write_open_clip",
    "write_safetensors",
    "write_simsiam",
    "write_swav",
    "write_without_classifier",
]


def shaken(model: Any) -> Any:
    """Numbers as after a training: nothing is at a value that anything is initialised with."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                tensor.fill_(3)
            elif name.endswith(("gamma", "layer_scale", "running_var")) or (
                tensor.ndim == 1 and name.endswith("weight")
            ):
                tensor.uniform_(0.5, 1.5)
            else:
                fill_normal(tensor, 0.1 if tensor.ndim < 2 else (2 / tensor[0].numel()) ** 0.5)
    return model


# What wraps the weights


def write_bare(model: nn.Module, path: Path) -> None:
    torch.save(model.state_dict(), path)


def write_safetensors(model: nn.Module, path: Path) -> None:
    from safetensors.torch import save_file

    save_file(model.state_dict(), path)


def write_without_classifier(model: Any, path: Path) -> None:
    model.fc = nn.Identity()
    torch.save(model.state_dict(), path)


def _checkpoint(whole: Any, path: Path, **beside: Any) -> None:
    """The reference ImageNet script's checkpoint, of a network under DistributedDataParallel."""
    optimizer = torch.optim.SGD([p for p in whole.parameters() if p.requires_grad], 0.1, momentum=0.9)
    state = {f"module.{name}": tensor for name, tensor in whole.state_dict().items()}
    torch.save(
        {"epoch": 200, "arch": "resnet50", "state_dict": state, "optimizer": optimizer.state_dict(), **beside}, path
    )


def _other(model: nn.Module) -> Any:
    """The same network with other numbers: a key or momentum encoder."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.25)
    return other


def write_moco(mlp: bool) -> Callable[[Any, Path], None]:
    def write(model: Any, path: Path) -> None:
        whole: Any = nn.Module()
        whole.encoder_q, whole.encoder_k = model, _other(model)
        for encoder in (whole.encoder_q, whole.encoder_k):
            encoder.fc = nn.Linear(2048, 128)
            if mlp:
                encoder.fc = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(), encoder.fc)
        whole.register_buffer("queue", torch.randn(128, 64))
        whole.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
        _checkpoint(whole, path)

    return write


def _perceptron(*widths: int, last: bool = True) -> nn.Sequential:
    """Linear layers with norms between, and one without gain behind the last."""
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Linear(a, b, bias=False))
        if i < len(widths) - 2:
            layers += [nn.BatchNorm1d(b), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.BatchNorm1d(widths[-1], affine=False)] if last else []))


def write_moco_v3(model: Any, path: Path) -> None:
    whole: Any = nn.Module()
    whole.base_encoder, whole.momentum_encoder = model, _other(model)
    for encoder in (whole.base_encoder, whole.momentum_encoder):
        encoder.fc = _perceptron(2048, 64, 256)
    whole.predictor = _perceptron(256, 64, 256, last=False)
    _checkpoint(whole, path, scaler={"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3})


def write_simsiam(model: Any, path: Path) -> None:
    whole: Any = nn.Module()
    whole.encoder, whole.predictor = model, _perceptron(64, 16, 64, last=False)
    whole.encoder.fc = _perceptron(2048, 64, 64, 64)
    _checkpoint(whole, path)


def write_swav(model: Any, path: Path) -> None:
    del model.fc
    model.projection_head = nn.Sequential(nn.Linear(2048, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 128))
    model.prototypes = nn.Linear(128, 30, bias=False)
    torch.save({f"module.{name}": tensor for name, tensor in model.state_dict().items()}, path)


def write_densecl(model: Any, path: Path) -> None:
    del model.fc
    torch.save({"state_dict": model.state_dict(), "author": "DenseCL"}, path)


def write_miil(model: nn.Module, path: Path) -> None:
    torch.save({"state_dict": model.state_dict()}, path)


def write_detectron2(model: Any, path: Path) -> None:
    """tools/convert-torchvision-to-d2.py."""
    renamed = {}
    for key, tensor in model.state_dict().items():
        name = key if "layer" in key else f"stem.{key}"
        name = re.sub(r"layer(\d)", lambda m: f"res{int(m[1]) + 1}", name)
        name = re.sub(r"bn(\d)", r"conv\1.norm", name).replace("downsample.0", "shortcut")
        renamed[name.replace("downsample.1", "shortcut.norm")] = tensor.numpy()
    path.write_bytes(pickle.dumps({"model": renamed, "__author__": "torchvision", "matching_heuristics": True}))


def caffe2_name(name: str, norm: str) -> str | None:
    """What Caffe2 calls a tensor of torchvision's; None for a counter, which it has not."""
    if name.startswith("fc."):
        return f"fc1000_{'w' if name.endswith('weight') else 'b'}"
    tensor = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}.get(name.rpartition(".")[2])
    if tensor is None:
        return None
    if match := re.fullmatch(r"layer(\d)\.(\d+)\.(?:(conv|bn)(\d)|downsample\.([01]))\.\w+", name):
        branch = "1" if match[5] else f"2{'abc'[int(match[4]) - 1]}"
        part = f"res{int(match[1]) + 1}_{match[2]}_branch{branch}"
        return f"{part}_w" if (match[3] == "conv" or match[5] == "0") else f"{part}_{norm}_{tensor}"
    return "conv1_w" if name == "conv1.weight" else f"{'res_' if norm == 'bn' else ''}conv1_{norm}_{tensor}"


def write_caffe2(norm: str) -> Callable[[Any, Path], None]:
    """A flat pickle of Python 2: Detectron2's reader says that ImageNet models have no "blobs"."""

    def write(model: Any, path: Path) -> None:
        named = {caffe2_name(name, norm): tensor.numpy() for name, tensor in model.state_dict().items()}
        arrays = {name: array for name, array in named.items() if name is not None}
        path.write_bytes(python2_pickle({**arrays, "fc1000_w_momentum": arrays["fc1000_w"]}))

    return write


def write_bit(model: nn.Module, path: Path) -> None:
    """The names and the order of dimensions that bit_pytorch/models.py loads."""
    arrays = {}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        name = name.replace("stem.conv.weight", "root_block/standardized_conv2d/kernel")
        if match := re.fullmatch(r"stages\.(\d)\.blocks\.(\d+)\.(conv|norm|downsample\.conv)(\d?)\.(\w+)", name):
            unit = f"block{int(match[1]) + 1}/unit{int(match[2]) + 1:02d}/{'abc'[int(match[4] or 1) - 1]}"
            tail = {"weight": "gamma", "bias": "beta"}[match[5]]
            inside = {"conv": "standardized_conv2d/kernel", "norm": f"group_norm/{tail}"}
            name = f"{unit}/{inside.get(match[3], 'proj/standardized_conv2d/kernel')}"
        name = re.sub(r"^norm\.(\w+)", lambda m: f"group_norm/{ {'weight': 'gamma', 'bias': 'beta'}[m[1]] }", name)
        name = name.replace("head.fc.weight", "head/conv2d/kernel").replace("head.fc.bias", "head/conv2d/bias")
        arrays[f"resnet/{name}"] = array
    with path.open("wb") as file:
        np.savez(file, **arrays)


# How the file is loaded by hand


def _strictly(model: nn.Module, state: Mapping[str, Tensor], *, missing: str = "fc.") -> None:
    """Into the network; only its classifier may go without."""
    answer = model.load_state_dict(state, strict=False)
    assert all(name.startswith(missing) for name in answer.missing_keys), answer.missing_keys[:5]


def unpickled(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=False)


def load_bare(model: nn.Module, path: Path) -> None:
    _strictly(model, {k: v for k, v in unpickled(path).items() if not k.startswith("fc.")})


def load_encoder(prefix: str) -> Callable[[nn.Module, Path], None]:
    """main_lincls.py of MoCo, MoCo v3 and SimSiam: what begins with the prefix, but for fc."""

    def load(model: nn.Module, path: Path) -> None:
        state = unpickled(path)["state_dict"]
        wanted = (k for k in state if k.startswith(prefix) and not k.startswith(f"{prefix}fc"))
        _strictly(model, {k.removeprefix(prefix): state[k] for k in wanted})

    return load


def load_swav(model: nn.Module, path: Path) -> None:
    _strictly(model, {k.replace("module.", ""): v for k, v in unpickled(path).items()})


def load_state(model: nn.Module, path: Path) -> None:
    _strictly(model, {k: v for k, v in unpickled(path)["state_dict"].items() if not k.startswith("fc.")})


def load_safetensors(model: nn.Module, path: Path) -> None:
    from safetensors.torch import load_file

    model.load_state_dict(load_file(path))


def load_renamed(rename: Callable[[str], str | None], unwrap: Callable[[Any], Any] = lambda tree: tree) -> Any:
    """A pickle of arrays, each under the name that a tensor of the network gets."""

    def load(model: nn.Module, path: Path) -> None:
        arrays = unwrap(pickle.loads(path.read_bytes(), encoding="latin1"))
        own = {name: rename(name) for name in model.state_dict()}
        state = {name: torch.from_numpy(np.array(arrays[theirs])) for name, theirs in own.items() if theirs in arrays}
        answer = model.load_state_dict(state, strict=False)
        assert all(name.endswith("num_batches_tracked") for name in answer.missing_keys)

    return load


def load_detectron2(model: nn.Module, path: Path) -> None:
    def rename(name: str) -> str:
        name = re.sub(r"layer(\d)\.(\d+)\.downsample\.0", r"layer\1.\2.shortcut", name)
        name = re.sub(r"layer(\d)\.(\d+)\.downsample\.1", r"layer\1.\2.shortcut.norm", name)
        name = re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", re.sub(r"\bbn(\d)", r"conv\1.norm", name))
        return name if name.startswith("res") else f"stem.{name}"

    load_renamed(rename, lambda tree: tree["model"])(model, path)


def load_bit(model: nn.Module, path: Path) -> None:
    """timm's own reader of BiT's files."""
    model.load_pretrained(str(path), prefix="resnet/")  # type: ignore[operator]


def load_clip(unwrap: Callable[[Path], Mapping[str, Tensor]]) -> Callable[[nn.Module, Path], None]:
    def load(model: nn.Module, path: Path) -> None:
        state = unwrap(path)
        own = {name: openai_names(name) for name in model.state_dict() if not name.startswith("head.")}
        found = {n: state[theirs].float() for n, theirs in own.items() if theirs in state}
        answer = model.load_state_dict(found, strict=False)
        assert all(n.startswith("head.") or n.endswith("num_batches_tracked") for n in answer.missing_keys)

    return load


def without_module(path: Path) -> dict[str, Tensor]:
    return {name.removeprefix("module."): tensor for name, tensor in unpickled(path)["state_dict"].items()}


def write_open_clip(model: nn.Module, path: Path) -> None:
    """open_clip's training checkpoint, under DistributedDataParallel."""
    own = {openai_names(name): t for name, t in model.state_dict().items() if not name.startswith("head.")}
    state = {f"module.{name}": tensor for name, tensor in {**own, **text_tower()}.items()}
    torch.save({"epoch": 32, "name": "rn101-quickgelu", "state_dict": state}, path)
