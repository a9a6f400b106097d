"""The benchmark of a step: that its peers are of the same model and loss, how turns are timed, what its targets are."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import pytest
import timm
import torch

from benchmarks.bare_loop import LABELS, ready_batch
from benchmarks.pretrain_step import GPU, Turns, at_least, compared, cpu_targets, finished, gpu_targets
from scaleprior.backbones import ResNetSpec
from scaleprior.pretrain.losses.logistic import logistic_loss
from scaleprior.pretrain.network.pretrainer import Pretrainer

CPU = torch.device("cpu")


def test_the_peer_has_our_model_and_our_loss() -> None:
    batch = ready_batch(4, 32)
    for depth in {case.depth for case in GPU.values()}:
        with torch.device("meta"):
            options = {"pixel_mean": [0.0] * 3, "pixel_std": [1.0] * 3, "bias": 0.0}
            ours = Pretrainer(ResNetSpec(depth=depth, stride_in_1x1=False), LABELS, **options)
            theirs = timm.create_model(f"resnet{depth}", num_classes=LABELS)
        shapes = [sorted(tuple(p.shape) for p in model.parameters()) for model in (ours, theirs)]
        assert shapes[0] == shapes[1]
    logits = torch.randn(4, LABELS, generator=torch.Generator().manual_seed(1))
    target = torch.zeros(4, LABELS)
    target[batch.targets.rows, batch.targets.labels] = 1
    dense = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    assert logistic_loss(logits, batch.targets).item() == pytest.approx(dense.item(), rel=1e-6)


def test_turns_are_taken_and_none_is_timed_with_anothers_work() -> None:
    made: list[str] = []

    def busy(seconds: float) -> None:
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass

    def peer() -> None:
        made.append("peer")
        busy(0.02)

    turns = Turns({"bare": peer}, 3, 2, 1, CPU)
    assert turns.total == 1 + 3 * 2
    for step in range(turns.total):
        made.append("ours")
        busy(0.002)
        turns(step + 1, turns.total, {})
    assert made == ["ours", *(["ours", "ours", "peer", "peer"] * 3)]
    assert {name: len(seconds) for name, seconds in turns.seconds.items()} == {"ours": 3, "bare": 3}
    assert all(mine < theirs / 2 for mine, theirs in zip(turns.seconds["ours"], turns.seconds["bare"]))


def test_targets_are_met_or_not() -> None:
    good: dict[str, Mapping[str, Any]] = {
        "r50_224": {"ours_best": 7000.0, "ours_compile": 7000.0, "best_by_peer": 1.01},
        "r152_224": {"ours_best": 2700.0},
        "r50_64": {"ours_best": 30_000.0},
        "command": {"images_per_s": 6800.0},
    }
    assert all(row["met"] for row in gpu_targets(good).values())
    bad = {**good, "r152_224": {"failed": "not done in 50 s"}}
    missed = [row for row in gpu_targets(bad).values() if not row["met"]]
    assert missed == [{"figure": 0.0, "target": 2672.8, "met": False, "failed": "not done in 50 s"}]
    assert cpu_targets({"r50_64": {"time_by_eager_peer": 1.02}})["time by the peer's"]["met"]
    assert not cpu_targets({"r50_64": {"failed": "no"}})["time by the peer's"]["met"]
    assert at_least(1.0, 1.0)["met"]


def test_what_was_measured_before_time_was_up_counts() -> None:
    def shell(end: str, limit: float) -> tuple[str, str]:
        return finished(["sh", "-c", f"echo one; echo why >&2; {end}"], limit, os.environ)

    assert shell("exec sleep 60", 1.0) == ("one\n", "not done in 1 s")
    assert shell("exit 3", 60.0) == ("one\n", "why")
    assert shell("exit 0", 60.0) == ("one\n", "")
    assert shell("exit 0", 0.0) == ("", "no time was left")


def test_the_best_mode_is_held_against_the_fastest_peer() -> None:
    case, rates = GPU["r50_64"], {"eager": [0.04, 0.03], "graph": [0.02]}
    both = {"time_of_graph_by_graph": 0.5, "time_of_graph_by_eager": 0.25}
    found = compared(case, {"ours_graph": 25_600.0, **both}, rates, gpu=True)
    assert (found["ours_best"], found["peer_graph"], found["best_by_peer"]) == (25_600.0, 12_800.0, 2.0)
    assert "best_by_peer" not in compared(case, {}, rates, gpu=True)  # nothing of ours was measured
    assert compared(case, {"ours_graph": 0.0}, {"compile": []}, gpu=True)["ours_best"] == 0.0
