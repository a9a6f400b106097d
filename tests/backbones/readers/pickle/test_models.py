"""Whole pickled models: the tensors of state_dict() under its names, without the classes."""

from __future__ import annotations

import sys
import types
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from scaleprior.backbones import ReadOptions, RefusedFileError, read_backbone
from scaleprior.backbones.readers.pickle import Placeholder, load_torch_legacy, load_torch_zip
from scaleprior.backbones.readers.read import inspect_backbone


def saved(model: Any, path: Path, *, old: bool = False) -> Any:
    torch.save(model, path, _use_new_zipfile_serialization=not old)
    return (load_torch_legacy if old else load_torch_zip)(path)


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Tensor]) -> None:
    """Names, in order, and bits."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        held = torch.from_numpy(found[name].copy()) if isinstance(found[name], np.ndarray) else found[name]
        assert held.dtype == value.dtype
        assert torch.equal(held, value), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("old", [False, True])
def test_whole_models_are_their_state_dict(old: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    for model in (resnet18(), timm.create_model("resnet18"), nn.DataParallel(resnet18())):
        tree = saved(model, tmp_path / "w.pth", old=old)
        assert tree.content.name == f"{type(model).__module__}.{type(model).__name__}"
        assert tree.left_out == []
        assert_same(tree.content.content, model.state_dict())
    tree = saved({"epoch": 3, "model": model, "loss": nn.CrossEntropyLoss()}, tmp_path / "w.pth", old=old)
    assert_same(tree.content["model"].content, model.state_dict())
    assert tree.left_out == ["loss: torch.nn.modules.loss.CrossEntropyLoss"]
    state = model.module.state_dict()
    reading = read_backbone(tmp_path / "w.pth", ReadOptions(assume="torchvision"))
    assert torch.equal(reading.tensors["stem.conv1.weight"], state["conv1.weight"])


_GONE = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.utils.weight_norm(nn.Conv2d(1, 2, 1, bias=False))
        self.norm = nn.BatchNorm2d(2)
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("dropped", torch.zeros(2), persistent=False)
        self.register_buffer("absent", None)
        self.a_tensor = torch.ones(3)  # an attribute only

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.blocks = nn.Sequential(Block(), Block())
        self.again = self.blocks[0]
        self.tied = nn.Linear(2, 2)
        self.tied.weight = self.blocks[1].norm.weight
        self.rnn = nn.LSTM(2, 3)
        self.sizes = nn.ParameterDict({"a": torch.ones(1), "b": torch.ones(2)})
        self.list = nn.ParameterList([torch.ones(1)])
        self.nothing = None
        self.hook = self.register_forward_hook(hook)

def hook(*_): pass
"""


@pytest.fixture
def gone() -> Iterator[types.ModuleType]:
    module = types.ModuleType("gone_models")
    exec(_GONE, module.__dict__)
    sys.modules["gone_models"] = module
    yield module
    sys.modules.pop("gone_models", None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("old", [False, True])
def test_models_of_modules_that_are_nowhere(old: bool, gone: types.ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = gone.Net()
    content = {"model": model, "state_dict": model.state_dict()}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
    sys.modules.pop("gone_models")
    found = (load_torch_legacy if old else load_torch_zip)(tmp_path / "w.pth").content
    assert "gone_models" not in sys.modules
    assert found["model"].name == "gone_models.Net"
    assert_same(found["model"].content, model.state_dict())
    assert "again.kept" in found["model"].content
    assert "blocks.0.dropped" not in found["model"].content
    assert_same(found["state_dict"], model.state_dict())


def test_models_traced_by_fx_and_models_within_objects(gone: types.ModuleType, tmp_path: Path) -> None:
    model = torch.fx.symbolic_trace(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)))
    assert_same(saved(model, tmp_path / "w.pth").content.content, model.state_dict())
    learner = types.SimpleNamespace(model=nn.Linear(2, 3), callbacks=[nn.ReLU()])
    found = saved(learner, tmp_path / "w.pth").content.content
    assert_same(found["model"].content, learner.model.state_dict())
    assert found["callbacks"] == [Placeholder("torch.nn.modules.activation.ReLU", {})]


def test_models_beyond_the_limits_are_refused_and_circles_end(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    model._modules["self"] = model  # state_dict() would not end
    assert list(saved(model, tmp_path / "w.pth").content.content) == ["weight", "bias"]
    wide: nn.Module = nn.Linear(1, 1)
    for _ in range(20):  # 2 ** 20 tensors in a small file
        wide = nn.ModuleDict({"a": wide, "b": wide})
    with pytest.raises(RefusedFileError, match="a pickled model has 50,001 entries"):
        saved(wide, tmp_path / "w.pth")
    long = nn.ModuleDict({"a" * 200: nn.ModuleDict({"b" * 200: nn.Linear(1, 1)})})
    with pytest.raises(RefusedFileError, match=r"a tensor of a pickled model is named 'aaa"):
        saved(long, tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", ["script", "trace"])
def test_torchscript_archives_are_their_state_dict(way: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = resnet18(width_per_group=64).eval()
    made = torch.jit.script(model) if way == "script" else torch.jit.trace(model, torch.zeros(1, 3, 32, 32))
    made.save(str(tmp_path / "w.pt"))
    tree = load_torch_zip(tmp_path / "w.pt")
    assert tree.left_out == []
    assert tree.content.name.startswith("__torch__.torchvision.models.resnet.")
    assert_same(tree.content.content, torch.jit.load(str(tmp_path / "w.pt")).state_dict())
    assert torch.equal(inspect_backbone(tmp_path / "w.pt").tensors["stem.conv1.weight"], model.conv1.weight)


class Scripted(nn.Module):
    """What TorchScript keeps beside modules and parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).half()
        self.register_buffer("resolution", torch.tensor(224))
        self.scale = nn.Parameter(torch.ones([]))
        self.sizes = [1, 2]
        self.names = {"a": 1}

    def forward(self, x: Tensor) -> Tensor:
        return self.visual(x.half()) * self.scale + torch.tensor([1.0]).half()


@pytest.mark.filterwarnings("ignore")
def test_programs_in_torchscript_archives_are_not_looked_at(tmp_path: Path) -> None:
    made = torch.jit.script(Scripted())
    made.save(str(tmp_path / "w.pt"))
    expected = torch.jit.load(str(tmp_path / "w.pt")).state_dict()
    with zipfile.ZipFile(tmp_path / "w.pt") as source, zipfile.ZipFile(tmp_path / "changed.pt", "w") as target:
        for member in source.infolist():
            program = "/code/" in member.filename or member.filename.endswith("/constants.pkl")
            kind = zipfile.ZIP_DEFLATED if program else zipfile.ZIP_STORED
            target.writestr(member.filename, b"import os" if program else source.read(member), kind)
    for name in ("w.pt", "changed.pt"):
        found = load_torch_zip(tmp_path / name).content.content
        assert_same({key: found[key] for key in expected}, expected)
        assert set(found) == set(expected)
        assert found["visual.0.weight"].dtype == torch.float16
    with zipfile.ZipFile(tmp_path / "w.pt") as source, zipfile.ZipFile(tmp_path / "packed.pt", "w") as target:
        for member in source.infolist():
            kind = zipfile.ZIP_DEFLATED if member.filename.endswith("/data/0") else zipfile.ZIP_STORED
            target.writestr(member.filename, source.read(member), kind)
    with pytest.raises(RefusedFileError, match="data/0 is compressed, which torch never does"):
        load_torch_zip(tmp_path / "packed.pt")
