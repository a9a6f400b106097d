"""The head in a run: by chunks of labels, and in shards; see also test_processes.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scaleprior.backbones import build_trunk
from scaleprior.backbones.weights import load_canonical, read_card
from scaleprior.errors import UserError
from scaleprior.pretrain import pretrain
from scaleprior.pretrain.check import pretraining_needs
from scaleprior.pretrain.plan import planned_card
from scaleprior.pretrain.recipe import check_config
from scaleprior.training.checkpoint import load_checkpoint
from scaleprior.training.resources import Needs


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


def test_shards_are_refused_where_a_rate_follows_the_norm_of_a_whole_layer(small_config: Callable) -> None:
    with pytest.raises(UserError, match=r"HEAD.SHARDED with .*NAME lamb.*; take sgd, rmsprop or adamw"):
        check_config(small_config("PRETRAIN.HEAD.SHARDED", "True", "PRETRAIN.OPTIMIZER.NAME", "lamb").cfg)


def test_shards_need_less_memory_and_the_same_disk(small_config: Callable) -> None:
    def needs(sharded: bool) -> Needs:
        cfg = small_config("PRETRAIN.HEAD.SHARDED", str(sharded), "PRETRAIN.OPTIMIZER.NAME", "sgd").cfg
        return pretraining_needs(cfg, 100_001, processes=2)

    whole, shard = needs(False), needs(True)
    head = 100_001 * (256 + 1) * 4  # float32, of 256 features
    # weights, gradients and momentum of half the labels
    assert whole.memory - shard.memory == pytest.approx(3 * head / 2, rel=1e-4)
    assert (whole.left, whole.peak) == (shard.left, shard.peak)


def test_parts_of_a_batch_and_a_frozen_trunk_need_less_memory(small_config: Callable) -> None:
    def memory(*words: str) -> int:
        return pretraining_needs(small_config("PRETRAIN.OPTIMIZER.NAME", "sgd", *words).cfg, 10).memory

    # float32, 16 x 16 pixels: three channels, and res2 .. res4 of 32, 64 and 128 channels at 4 x 4, 2 x 2 and 1 x 1
    image = 4 * (3 * 256 + 32 * 16 + 64 * 4 + 128)
    whole = memory()
    assert whole - memory("PRETRAIN.ACCUMULATE", "2") == 2 * image
    head = 10 * (256 + 1) * 4
    probe = ("PRETRAIN.FREEZE", "trunk", "MODEL.WEIGHTS", "parent.safetensors")  # nothing reads it
    frozen = memory(*probe)
    assert memory(*probe, "PRETRAIN.ACCUMULATE", "2") == frozen
    # the trunk's gradients and momenta are gone, the head's are not
    trunk = (whole - 4 * image - frozen) / 2
    spec = planned_card(small_config().cfg).arch
    learning = sum(p.numel() for p in build_trunk(spec).parameters())
    assert trunk == 4 * learning
    assert frozen > 2 * head
