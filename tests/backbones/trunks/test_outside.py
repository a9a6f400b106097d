"""A family of trunks from outside the package: announced by an entry point, it is pretrained, converted and detects."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from scaleprior import plugins
from scaleprior.backbones import TimmSpec, read_card, register_family
from scaleprior.backbones.trunks import family as registry, known_models
from scaleprior.backbones.trunks.clip import CLIP
from scaleprior.errors import UserError
from tests import processes
from tests.backbones.trunks.plain_family import Plain
from tests.conftest import REPO
from tests.detect.conftest import TINY_FPN, data_overrides, make_coco
from tests.pretrain.conftest import SMALL, index_images, write_images

TRUNK = ["MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.TIMM.MODEL", "plain_tiny", "MODEL.RESNETS.NORM", "BN"]

# Runs the command line in one process; the foreign file is what another library would save of such a network.
SCRIPT = """
import json, sys
import torch
from scaleprior.backbones import TimmSpec, build_trunk
from scaleprior.cli import main
for words in json.load(open(sys.argv[1])):
    torch.manual_seed(0)
    state = build_trunk(TimmSpec("plain_tiny")).body.state_dict()
    torch.save({f"net.{name}": tensor for name, tensor in state.items()}, "foreign.pth")
    assert main(words) == 0, words
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder as pip leaves it: the module, and beside it what announces it."""
    site = tmp_path / "site"
    info = site / "plain_family-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("plain_family.py"), site)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plain-family\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[scaleprior.trunks]\nplain = plain_family:Plain\n")
    return site


def test_it_is_pretrained_converted_and_fine_tuned_by_the_command_line(installed: Path, tmp_path: Path) -> None:
    index_images(write_images(tmp_path / "images", 4), tmp_path / "index")
    short = ["PRETRAIN.CORPUS", str(tmp_path / "index"), "PRETRAIN.BUDGET.AMOUNT", "1"]
    pixels = ["--pixel-mean", "127.5", "127.5", "127.5", "--pixel-std", "127.5", "127.5", "127.5"]
    card = ["MODEL.PIXEL_MEAN", "[127.5, 127.5, 127.5]", "MODEL.PIXEL_STD", "[127.5, 127.5, 127.5]"]
    config = ["--config-file", "COCO-Detection/Base-RCNN-FPN.yaml", "--engine", "torchvision"]
    data = [*data_overrides(*make_coco(tmp_path / "data")), "SOLVER.MAX_ITER", "1", "INPUT.FORMAT", "RGB"]
    weights = ["MODEL.WEIGHTS", "run/backbone.safetensors"]
    commands = [
        ["pretrain", "--config-file", "Pretrain/Base-Pretrain.yaml", "--out", "run", *SMALL, *short, *TRUNK],
        [
            "backbone",
            "convert",
            "foreign.pth",
            "c.safetensors",
            *pixels,
            "--channel-order",
            "RGB",
            "--norm-eps",
            "1e-5",
        ],
        ["detect", "train", *config, "--out", "det", *TINY_FPN, *data, *card, *TRUNK, *weights],
    ]
    (tmp_path / "commands.json").write_text(json.dumps(commands))
    path = os.pathsep.join([str(installed), str(REPO)])
    command = [sys.executable, "-c", SCRIPT, "commands.json"]
    run = processes.run(command, cwd=tmp_path, env=processes.environment(PYTHONPATH=path))
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "det" / "model.safetensors").is_file()
    # where the package is not installed, its files are refused by name
    for file in ("run/backbone.safetensors", "c.safetensors"):
        with pytest.raises(UserError, match=r"'plain_tiny' .*is not known here; known: resnetv2_50x1_bit"):
            read_card(tmp_path / file)
    lines = Path(__file__).with_name("plain_family.py").read_text().splitlines()
    assert len(lines) <= 60


@pytest.fixture
def empty_register(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_REGISTERED", {})
    yield
    registry._found.cache_clear()


def test_it_can_be_registered_from_a_notebook(empty_register: None) -> None:
    with pytest.raises(UserError, match="'plain_tiny' of timm is not known here"):
        TimmSpec("plain_tiny")
    family = register_family(Plain())
    spec = TimmSpec("plain_tiny")
    assert (spec.family, spec.out_channels["res5"], spec.norm) == (family, 64, "BN")
    assert register_family(family) is family
    with pytest.raises(UserError, match="there is a family of trunks 'plain' already"):
        register_family(Plain())

    class Thief(Plain):
        name = "thief"
        models = CLIP.models

    with pytest.raises(UserError, match="'thief' has models that others have: resnet101_clip, "):
        register_family(Thief())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "is no family of trunks with a name"),
        ({"models": None}, "'plain' has models None; give a mapping"),
        ({"models": {"plain_tiny": 3}}, "'plain' has models {'plain_tiny': 3}"),
        ({"norm": "RMS"}, "'plain' has norm 'RMS'; the norms that MODEL.RESNETS.NORM knows are BN, FrozenBN, GN, LN"),
    ],
)
def test_what_is_no_family_is_refused(empty_register: None, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        register_family(type("Family", (Plain,), changes)())
    with pytest.raises(UserError, match="'trunks' is no family of trunks with a name; derive its class"):
        register_family("trunks")  # pyright: ignore[reportArgumentType]


def test_a_broken_package_costs_nobody_else_their_trunks(
    empty_register: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    points = [
        metadata.EntryPoint("broken", "no_such_module:Family", registry.TRUNK_GROUP),
        metadata.EntryPoint("text", "builtins:str", registry.TRUNK_GROUP),
        metadata.EntryPoint("nameless", "scaleprior.backbones.trunks.family:TrunkFamily", registry.TRUNK_GROUP),
        metadata.EntryPoint("again", "scaleprior.backbones.trunks.clip:CLIP", registry.TRUNK_GROUP),
        metadata.EntryPoint("plain", "tests.backbones.trunks.plain_family:Plain", registry.TRUNK_GROUP),
    ]
    monkeypatch.setattr(plugins.metadata, "entry_points", lambda group: points)
    registry._found.cache_clear()
    with caplog.at_level(logging.WARNING):
        models = known_models()
    assert list(models)[-1] == "plain_tiny"
    assert next(iter(models)) == "resnet18"
    assert "left out: family of trunks 'broken' of no_such_module:Family (no_such_module:Family)" in caplog.text
    assert "does not load: ModuleNotFoundError" in caplog.text
    assert "trunks of text (builtins:str) are left out: '' is no family of trunks with a name" in caplog.text
    assert "trunks of nameless (scaleprior.backbones.trunks.family:TrunkFamily) are left out: <" in caplog.text
    assert "trunks of again (scaleprior.backbones.trunks.clip:CLIP) are left out: their names are taken" in caplog.text
