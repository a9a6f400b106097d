"""The benchmark of decoding runs on a machine of any kind, and ends with JSON."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from benchmarks import pretrain_decode


def test_every_figure_is_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pretrain_decode, "_IMAGES", 8)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(sys, "argv", ["pretrain_decode.py", "--workers", "1", "--batch", "4", "--seconds", "0"])
    assert pretrain_decode.main() == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["jpegs"] for row in result["rows"]] == ["64 px", "500x375 px"]
    for row in result["rows"]:
        assert all(row[name] > 0 for name in ("cpu", "cpu_one", "reading_one"))
        assert (row["gpu"] is None) == (row["gpu_and_reading"] is None) == (result["gpu"] is None)
