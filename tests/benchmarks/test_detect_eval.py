"""The benchmark of an evaluation: both engines measure the same detections of the same images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


@pytest.mark.detectron2
def test_both_engines_find_as_much(tmp_path: Path) -> None:
    from benchmarks.detect_eval import measure

    torch.set_num_threads(1)
    row = measure("FPN", 50, tmp_path, images=2, size=64, workers=0, narrow=True)
    assert row["detections"] == row["detectron2_detections"] > 20
    assert 0 < row["torchvision_ap_share"] < 1
    assert 0 < row["detectron2_ap_share"] < 1
    assert row["ratio"] == pytest.approx(row["torchvision_images_per_second"] / row["detectron2_images_per_second"])
