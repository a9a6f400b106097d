"""The kernels on a machine without a GPU: what they compute, in Triton's interpreter, at small sizes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from tests import processes


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton here")
def test_kernels_compute_what_torchvision_does() -> None:
    # a process of its own: Triton asks at its first import whether it is to interpret
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts="]
    environment = processes.environment(TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")
    files = [Path(__file__).with_name(f"test_{name}.py") for name in ("matching", "nms", "roi_align")]
    done = processes.run([*command, *files], env=environment)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
