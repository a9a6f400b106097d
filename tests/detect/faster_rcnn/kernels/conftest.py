"""Where the kernels are tried: on a GPU, or on the CPU in Triton's interpreter (see ``test_interpreted``)."""

from __future__ import annotations

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture
def device() -> str:
    """The device that the kernels run on here."""
    if not INTERPRETED and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    pytest.importorskip("triton", reason="no Triton here")
    return "cpu" if INTERPRETED else "cuda"


@pytest.fixture
def whole(device: str) -> bool:
    """Whether full sizes are tried; the interpreter takes a second for a hundred boxes."""
    return device == "cuda"
