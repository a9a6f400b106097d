"""A loss whose scale falls to nothing is told."""

from __future__ import annotations

import logging

import pytest
import torch

from scaleprior.detect.scaling import ScaleWatch
from scaleprior.errors import FailureError


def test_a_scale_that_falls_is_a_warning_once_and_an_error_at_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    scaler = torch.amp.GradScaler("cpu")
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer, watch = torch.optim.SGD([weight], lr=0.1), ScaleWatch()

    def learn() -> None:
        for step in range(100):
            scaler.scale(weight.sum() * torch.inf).backward()
            scaler.step(optimizer)
            scaler.update()
            watch.look(step, scaler.get_scale())

    said = r"step 32 .* scaled down to 7\.6e-06 of itself: nothing is learnt .*AMP_DTYPE bfloat16"
    with pytest.raises(FailureError, match=said):
        learn()
    assert weight.item() == 1
    assert [record.getMessage()[:8] for record in caplog.records] == ["step 16:"]
