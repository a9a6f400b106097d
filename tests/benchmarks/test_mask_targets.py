"""The benchmark of mask targets runs and finds no pixel that differs."""

from __future__ import annotations

import json

import pytest

from benchmarks.mask_targets import main


@pytest.mark.detectron2
def test_no_pixel_differs(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--boxes", "40", "--rounds", "1"])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["boxes"], said["pixels_that_differ"]) == (40, 0)
    assert isinstance(said["met"], bool)
