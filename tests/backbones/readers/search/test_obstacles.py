"""Weights that are computed from others, or not there: torch's own modules write the files."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from scaleprior.backbones import ReadOptions, read_backbone
from scaleprior.errors import UserError
from tests.backbones.readers.search.conftest import FACTS, Check, prefixed, small

States = Mapping[str, Any]


def refused(state: States, path: Path) -> str:
    torch.save(state, path / "w.pth")
    with pytest.raises(UserError) as caught:
        read_backbone(path / "w.pth", ReadOptions(**FACTS))
    return str(caught.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("every", [True, False])
@pytest.mark.parametrize(
    ("change", "what", "instead"),
    [
        (weight_norm, r"convolutions with weight norm", "remove_weight_norm"),
        (spectral_norm, r"convolutions with spectral norm", "remove_spectral_norm"),
        (parametrizations.weight_norm, "convolutions whose weights are parametrised", "remove_parametrizations"),
        (parametrizations.spectral_norm, "convolutions whose weights are parametrised", "remove_parametrizations"),
        (lambda module: prune.l1_unstructured(module, "weight", 0.5), "pruned convolutions", "prune.remove"),
    ],
)
def test_computed_weights_are_named(
    change: Callable[[nn.Module], Any], what: str, instead: str, every: bool, tmp_path: Path
) -> None:
    network = copy.deepcopy(small())
    for module in [m for m in network.modules() if isinstance(m, nn.Conv2d)] if every else [network.layer1[0].conv2]:
        change(module)
    said = refused({"model": prefixed(network.state_dict(), "module.")}, tmp_path)
    assert f"w.pth holds {what}" in said
    assert instead in said


@pytest.mark.filterwarnings("ignore")
def test_a_head_with_weight_norm_stands_in_no_ones_way(check: Check) -> None:
    """DINO's last layer."""
    network, head = small(), weight_norm(nn.Linear(8, 9, bias=False))
    check({"backbone": network.state_dict(), "head": {"last_layer": head.state_dict()}}, network)


def test_adapters(tmp_path: Path) -> None:
    state = small().state_dict()
    state["layer1.0.conv2.lora_A"] = torch.zeros(4, 8)
    assert "holds LoRA's adapters (lora_A, lora_B)" in refused(state, tmp_path)
    adapter = {"base_model.model.layer1.0.conv2.lora_A.weight": torch.zeros(4, 8, 3, 3)}
    assert "model.merge_and_unload()" in refused(adapter, tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "change", [lambda x: torch.quantize_per_tensor(x, 0.01, 0, torch.qint8), Tensor.to_sparse,
               lambda x: x.to(torch.float8_e4m3fn)]
)  # fmt: skip
def test_weights_of_other_kinds(change: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    state = small().state_dict()
    state["layer1.0.conv2.weight"] = change(state["layer1.0.conv2.weight"])
    assert "holds 1 weights that are quantised, sparse or of 8 bits (layer1.0.conv2.weight)" in refused(state, tmp_path)


def test_integers_and_absent_numbers(tmp_path: Path) -> None:
    state = small().state_dict()
    whole = state["conv1.weight"]
    state["conv1.weight"] = whole.to(torch.int8)
    said = "conv1.weight is of type int8 [refused: damaged]; take weights in float16, bfloat16, float32 or float64"
    assert said in refused(state, tmp_path)
    parameters = {name for name, _ in small().named_parameters()}
    zero = {name: torch.empty(0) if name in parameters else value for name, value in state.items()}
    assert "as ZeRO's third stage leaves them" in refused({"module": zero, "ds_version": "0.14"}, tmp_path)
