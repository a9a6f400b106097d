"""Norms of other kinds than a trunk's: read where that is exact, else named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from scaleprior.backbones import ReadOptions, read_backbone
from scaleprior.backbones.verify import verify_backbone
from scaleprior.errors import UserError
from tests.backbones.readers.search.conftest import FACTS, Check, small


def test_norms_without_gains_and_biases(check: Check) -> None:
    """``BatchNorm2d(affine=False)``; torch's own says what it computes."""
    network = small()
    for module in list(network.modules()):
        for name, norm in list(module.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                plain = nn.BatchNorm2d(norm.num_features, affine=False).eval()
                plain.load_state_dict({key: value for key, value in norm.state_dict().items() if "_" in key})
                setattr(module, name, plain)
    assert not [name for name in network.state_dict() if name.endswith("bn1.weight")]
    reading = check({"state_dict": network.state_dict()}, network)
    assert any(note.startswith("norms have statistics only (affine=False)") for note in reading.report.notes)
    (trained,) = [
        finding for finding in verify_backbone(reading.tensors, reading.card).findings if "gains" in finding.what
    ]
    assert (trained.level, "53 of 53 norms, as of affine=False" in trained.what) == ("warning", True)


@pytest.mark.parametrize("lost", ["layer1.0.bn2.weight", "layer1.0.bn2.running_var"])
def test_a_norm_that_lacks_one_of_its_tensors(lost: str, tmp_path: Path) -> None:
    """Pixel statistics are compared with the norms' first, and must not need what is not there."""
    torch.save({name: value for name, value in small().state_dict().items() if name != lost}, tmp_path / "w.pth")
    target = lost.replace("layer1", "res2").replace("bn2", "conv2.norm")
    with pytest.raises(UserError, match=rf"1 missing \({target}\)"):
        read_backbone(tmp_path / "w.pth", ReadOptions(**FACTS))
