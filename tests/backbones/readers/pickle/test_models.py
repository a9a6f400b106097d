"""Whole pickled models: the tensors of state_dict() under its names, without the classes."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from scaleprior.backbones import RefusedFileError, read_backbone
from scaleprior.backbones.readers.pickle import Placeholder, load_torch_legacy, load_torch_zip


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
    assert torch.equal(read_backbone(tmp_path / "w.pth").tensors["stem.conv1.weight"], state["conv1.weight"])


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
