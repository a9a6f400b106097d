"""Stochastic depth: the same rates as timm's own networks, off in evaluation, and no change of any tensor's name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import nn

from scaleprior.backbones import ResNetSpec, TimmSpec, build_trunk
from scaleprior.backbones.trunks import family
from scaleprior.backbones.trunks.family import TrunkSpec, register_family
from scaleprior.errors import UserError
from tests.backbones.trunks.plain_family import Plain

RATE = 0.3
FAMILIES = [
    (ResNetSpec(depth=18), "resnet18"),
    (ResNetSpec(depth=50), "resnet50"),
    (TimmSpec("convnext_tiny"), "convnext_tiny"),
    (TimmSpec("resnetv2_50x1_bit"), "resnetv2_50x1_bit"),
    (TimmSpec("resnet50_clip"), "resnet50_clip_gap"),
]


def rates(model: nn.Module) -> list[float]:
    return [m.drop_prob for m in model.modules() if isinstance(m, DropPath)]


@pytest.mark.parametrize(("spec", "model"), FAMILIES, ids=lambda value: getattr(value, "name", value))
def test_rates_are_timms_own(spec: TrunkSpec, model: str) -> None:
    with torch.device("meta"):
        trunk, plain = build_trunk(spec).set_drop_path(RATE), build_trunk(spec)
    with torch.device("cpu"):  # timm reads its rates off a tensor
        theirs = rates(timm.create_model(model, drop_path_rate=RATE))
    ours = rates(trunk)
    assert ours[0] == 0
    assert ours[-1] == RATE
    assert [rate for rate in ours if rate] == pytest.approx([rate for rate in theirs if rate], abs=1e-6)
    assert rates(plain) in ([], [0.0] * len(rates(plain)))  # detectors' trunks are built without
    assert trunk.canonical_names() == plain.canonical_names()
    assert {n: t.shape for n, t in trunk.canonical_state().items()} == {
        n: t.shape for n, t in plain.canonical_state().items()
    }


def test_it_is_on_in_training_alone_and_follows_the_generator() -> None:
    torch.manual_seed(0)
    spec = ResNetSpec(depth=18)
    trunk = build_trunk(spec).set_drop_path(0.5)
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # fresh last norms are 0 and let no branch be seen
    x = torch.randn(4, 3, 32, 32)

    def pooled(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return trunk.pooled(x)

    assert torch.equal(pooled(1), pooled(1))
    assert not torch.equal(pooled(1), pooled(2))
    plain = build_trunk(spec).load(trunk.canonical_state()).eval()
    trunk.eval()
    assert torch.equal(pooled(1), plain.pooled(x))


@pytest.fixture
def plain_tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[TimmSpec]:
    monkeypatch.setattr(family, "_REGISTERED", {})
    register_family(Plain())
    yield TimmSpec("plain_tiny")
    family._found.cache_clear()


def test_a_family_without_such_blocks_is_refused(plain_tiny: TimmSpec) -> None:
    with pytest.raises(UserError, match=r"DROP_PATH is 0.3, and the blocks of plain_tiny have no branch"):
        build_trunk(plain_tiny).set_drop_path(RATE)
