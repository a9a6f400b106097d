"""Which model is evaluated: the one that is named, else the run's own, else the config's."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from scaleprior.backbones import Card, ResNetSpec, build_resnet, save_backbone, to_detectron2
from scaleprior.commands import detect as command
from scaleprior.config import data_file, load_config
from scaleprior.detect import get_engine
from scaleprior.detect.start import model_to_evaluate
from scaleprior.errors import UserError
from tests.detect.conftest import TINY_FPN

NARROW = ResNetSpec(depth=50, res2_out_channels=16, width_per_group=4)
DETECTRON2: Any = SimpleNamespace(model_file="model_final.pth")


def config(folder: Path, weights: str, *words: str) -> Any:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"MODEL": {"WEIGHTS": weights}}))
    return load_config(path, words)


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    trunk = build_resnet(NARROW)
    facts: dict[str, Any] = {"pixel_mean": (127.5,) * 3, "pixel_std": (127.5,) * 3, "channel_order": "RGB"}
    save_backbone(tmp_path / "b.safetensors", to_detectron2(trunk.state_dict()), Card(name="b", arch=NARROW, **facts))
    return tmp_path / "b.safetensors"


@pytest.mark.parametrize(
    ("given", "words", "files", "found"),
    [
        (None, [], ["last_checkpoint", "model_0000003.pth", "model_final.pth"], "out/model_0000003.pth"),
        (None, [], ["model_final.pth"], "out/model_final.pth"),
        (None, [], ["last_checkpoint", "model_final.pth"], "out/model_final.pth"),  # the pointer's file is gone
        (None, [], ["model.safetensors"], "config.pth"),  # another engine's
        (None, [], [], "config.pth"),
        (None, ["SEED", "1", "MODEL.WEIGHTS", "typed.pth"], ["model_final.pth"], "typed.pth"),
        ("given.pth", ["MODEL.WEIGHTS", "typed.pth"], ["model_final.pth"], "given.pth"),
        (None, ["MODEL.WEIGHTS", ""], ["model_final.pth"], "out/model_final.pth"),
    ],
)
def test_what_is_named_wins_then_the_runs_own_then_the_configs(
    given: str | None,
    words: list[str],
    files: list[str],
    found: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in files:
        (out / name).write_text("model_0000003.pth")
    caplog.set_level(logging.INFO, "scaleprior")
    chosen = model_to_evaluate(DETECTRON2, config(tmp_path, "config.pth", *words), out, given=given, words=words)
    assert chosen == (str(tmp_path / found) if found.startswith("out/") else found)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"evaluating {chosen} (")


@pytest.mark.parametrize(
    "weights",
    ["scaleprior://R-50-imagenet-1k", "detectron2://ImageNetPretrained/MSRA/R-50.pkl", "{backbone}"],
)
def test_a_backbone_that_only_the_config_names_is_refused(weights: str, tmp_path: Path, backbone: Path) -> None:
    """Nothing is downloaded to tell; a detector of Detectron2's zoo is taken."""
    loaded = config(tmp_path, weights.format(backbone=backbone))
    with pytest.raises(UserError, match=r"is a backbone, not a trained detector, and .*out holds no model of its own"):
        model_to_evaluate(DETECTRON2, loaded, tmp_path / "out")
    zoo = "detectron2://COCO-Detection/faster_rcnn_R_50_FPN_1x/137257794/model_final_b275ba.pkl"
    assert model_to_evaluate(DETECTRON2, config(tmp_path, zoo), tmp_path / "out") == zoo


@pytest.mark.parametrize("pointer", [b"\xff", b"../else.pth", b"a\0.pth", b"x" * 300 + b".pth", b"x" * 5000, b""])
def test_a_damaged_pointer_is_passed_by(tmp_path: Path, pointer: bytes) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "else.pth").touch()
    (out / "model_final.pth").touch()
    (out / "last_checkpoint").write_bytes(pointer)
    assert model_to_evaluate(DETECTRON2, config(tmp_path, ""), out) == str(out / "model_final.pth")
    (out / "model_0000005.pth").touch()
    (out / "last_checkpoint").write_text("model_0000005.pth\n")
    assert model_to_evaluate(DETECTRON2, config(tmp_path, ""), out) == str(out / "model_0000005.pth")


def test_without_anything_the_runs_model_is_missing(tmp_path: Path) -> None:
    loaded = config(tmp_path, "")
    assert model_to_evaluate(DETECTRON2, loaded, tmp_path / "out") == str(tmp_path / "out" / "model_final.pth")


def test_eval_takes_the_runs_model_though_the_config_names_weights(
    tmp_path: Path, backbone: Path, coco_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """``scaleprior detect eval``, on the torchvision engine: the backbone in the file is where training began."""
    torch.manual_seed(0)
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    path = tmp_path / "config.yaml"
    path.write_text(
        f"_BASE_: {data_file('configs', 'COCO-Detection/Base-RCNN-FPN.yaml')}\nMODEL:\n  WEIGHTS: {backbone}\n"
    )
    pixels = ["MODEL.PIXEL_MEAN", "[127.5, 127.5, 127.5]", "MODEL.PIXEL_STD", "[127.5, 127.5, 127.5]"]
    words = ["--engine", "torchvision", "--out", str(tmp_path / "run"), "--json", *TINY_FPN, *pixels, *coco_overrides]
    for action in ("train", "eval"):
        args = parser.parse_args(["detect", action, "--config-file", str(path), *words, "SOLVER.MAX_ITER", "1"])
        args.handler(args)
    trained, again = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert trained["model"] == again["model"] == str(tmp_path / "run" / get_engine("torchvision").model_file)
    args = parser.parse_args(["detect", "eval", "--config-file", str(path), *words, "OUTPUT_DIR", "x"])
    args.out = tmp_path / "empty"
    with pytest.raises(UserError, match="holds no model of its own"):
        args.handler(args)
