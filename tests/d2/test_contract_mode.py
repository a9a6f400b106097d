"""Around the loading of a backbone: the way back from a refusal, what is said of what is new, SCALEPRIOR.CONTRACT."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

import scaleprior.d2
from scaleprior.backbones import load_backbone
from scaleprior.config import load_config
from scaleprior.d2.plan import default_config, plan_training
from scaleprior.errors import UserError
from tests.d2.conftest import NARROW, tiny
from tests.d2.test_checkpoint import model_for, trunk_of
from tests.d2.test_contract import BGR, HALF, refusal


@pytest.fixture
def warn() -> Iterator[None]:
    scaleprior.d2.contract_mode("warn")
    yield
    scaleprior.d2.contract_mode("strict")


def test_who_evaluates_hears_that_the_heads_are_new(weights: str, said: Callable[[str], list[str]]) -> None:
    """``--eval-only`` of stock tools loads a model and nothing else; who trains has something beside it."""
    DetectionCheckpointer(model_for(NARROW, "FPN")).load(weights)
    (line,) = said("untrained")
    assert line == (
        "backbone w: 265 of its 265 tensors fill the trunk; new, untrained: backbone (16), proposal_generator (6), "
        "roi_heads (6)"
    )
    model = model_for(NARROW, "FPN")
    DetectionCheckpointer(model, optimizer=torch.optim.SGD(model.parameters(), 0.1)).load(weights)
    assert not said("untrained")


def test_a_refused_load_leaves_the_checkpointer_usable(weights: str, tmp_path: Path) -> None:
    model = model_for(NARROW, "FPN")
    checkpointer = DetectionCheckpointer(model)
    torch.save({"model": {}}, tmp_path / "x.pth")
    for wrong in (str(tmp_path / "absent.pth"), f"{weights}?foo=1", f"{tmp_path}/x.pth?foo=1"):
        with pytest.raises((AssertionError, UserError, ValueError), match=r"absent\.pth not found|foo"):
            checkpointer.load(wrong)
    checkpointer.load(weights)
    assert torch.equal(trunk_of(model)["stem.conv1.weight"], load_backbone(weights).tensors["stem.conv1.weight"])


@pytest.mark.parametrize("ending", ["safetensors", "pkl"])
def test_queries_that_detectron2_does_not_know_are_refused(ending: str, weights: str, tmp_path: Path) -> None:
    load_backbone(weights).export(tmp_path / "w.pkl")
    file = tmp_path / f"w.{ending}"
    text = refusal(model_for(NARROW, "FPN"), f"{file}?foo=1&matching_heuristics=True")
    assert (
        text == f"MODEL.WEIGHTS {file}?foo=1&matching_heuristics=True has the query foo, which means nothing to "
        f"Detectron2; give {file}"
    )
    DetectionCheckpointer(model_for(NARROW, "FPN")).load(f"{file}?matching_heuristics=True")


class Adapter(nn.Module):
    """What somebody put into a stage."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.adapter = nn.Conv2d(128, 128, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.adapter(self.block(x))


def changed() -> nn.Module:
    """An adapter around a block, attention beside one, another norm in one."""
    model = model_for(NARROW, "FPN")
    trunk = model.backbone.bottom_up
    trunk.res5[2] = Adapter(trunk.res5[2])
    trunk.res4[0].attention = nn.Linear(64, 64)
    trunk.res3[0].conv1.norm = nn.GroupNorm(2, 8)
    return model


def test_a_changed_trunk_takes_what_fits_where_that_is_asked_for(
    weights: str, warn: None, said: Callable[[str], list[str]]
) -> None:
    model = changed()
    DetectionCheckpointer(model).load(weights)
    tensors, _ = load_backbone(weights)
    # 3 convolutions of the block in the adapter with 5 tensors each, and the two statistics that GN has not
    lost = {name for name in tensors if name.startswith("res5.2.")}
    lost |= {f"res3.0.conv1.norm.running_{what}" for what in ("mean", "var")}
    trunk = trunk_of(model)
    assert len(lost) == 17
    assert all(torch.equal(trunk[name], tensor) for name, tensor in tensors.items() if name not in lost)
    lines = said("")
    assert any(
        "19 tensors of the model's trunk are not in it, first: backbone.bottom_up.res4.0.attention." in x for x in lines
    )
    assert any("17 of its tensors have no place in the model, first: res" in line for line in lines)
    assert any("248 of its 265 tensors fill the trunk" in line for line in lines)
    with pytest.raises(UserError, match="none of the 265 tensors"):
        DetectionCheckpointer(nn.Linear(2, 2)).load(weights)
    wrong = model_for(NARROW, "FPN", **BGR)
    DetectionCheckpointer(wrong).load(weights)
    (line,) = said("contradicts")
    assert "INPUT.FORMAT is 'BGR'; use MODEL.PIXEL_MEAN" in line


def test_a_changed_trunk_is_an_error_that_names_the_way(weights: str) -> None:
    assert refusal(changed(), weights).endswith('takes what fits of it with scaleprior.d2.contract_mode("warn")')
    with pytest.raises(UserError, match="mode is 'lax'; take one of strict, warn"):
        scaleprior.d2.contract_mode("lax")  # pyright: ignore[reportArgumentType]


def test_the_key_does_it_for_a_yacs_config(weights: str, coco: list[str], tmp_path: Path, said: Any) -> None:
    """In our plan, where a key that was set stays; in the model that is built from it, by whomever."""
    words = [*coco, "INPUT.FORMAT", "BGR", "SCALEPRIOR.CONTRACT", "warn", "MODEL.DEVICE", "cpu"]
    cfg = plan_training(tiny("FPN", words), weights, tmp_path / "out").cfg
    assert (cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_STD) == ("BGR", HALF)
    assert said("contradicts the card of backbone w: INPUT.FORMAT is 'BGR'")
    zoo = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
    mine = scaleprior.d2.with_backbone(zoo, weights, ["INPUT.FORMAT", "BGR", "SCALEPRIOR.CONTRACT", "warn"])
    assert (mine.INPUT.FORMAT, mine.MODEL.RESNETS.RES2_OUT_CHANNELS) == ("BGR", 16)
    DetectionCheckpointer(build_model(cfg)).load(weights)
    assert said("the model contradicts the card of its backbone w: INPUT.FORMAT is 'BGR'; use INPUT.FORMAT RGB")
    strict = tiny("FPN", [word if word != "warn" else "strict" for word in words])
    with pytest.raises(UserError, match=r"INPUT\.FORMAT is 'BGR'"):
        plan_training(strict, weights, tmp_path / "out")
    with pytest.raises(UserError, match=r"SCALEPRIOR\.CONTRACT is 'lax'"):
        build_model(
            load_config(None, ["SCALEPRIOR.CONTRACT", "lax", "MODEL.DEVICE", "cpu"], defaults=default_config()).cfg
        )
