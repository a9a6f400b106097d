"""A run with the head by chunks of labels ends where a run with the whole of it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from scaleprior.backbones.weights import load_canonical, read_card
from scaleprior.pretrain import pretrain
from scaleprior.training.checkpoint import load_checkpoint


def test_a_run_by_chunks_is_the_run_up_to_rounding(small_config: Callable, tmp_path: Path) -> None:
    runs = {}
    for chunk in ("0", "3"):
        result = pretrain(small_config("PRETRAIN.HEAD.CHUNK", chunk), tmp_path / chunk)
        head = load_checkpoint(tmp_path / chunk / "head.safetensors")["head"]
        runs[chunk] = {**load_canonical(result.backbone)[0], **head}
        assert ("CHUNK" in str(read_card(result.backbone).recipe)) == (chunk != "0")
    assert set(runs["0"]) == set(runs["3"])
    assert not torch.equal(runs["0"]["weight"], runs["3"]["weight"])  # it did go another way
    for name, whole in runs["0"].items():
        # float32 after four steps; small convolutions' gradients lose some digits in batch norms of four images
        torch.testing.assert_close(runs["3"][name], whole, rtol=1e-3, atol=1e-4, msg=name)
