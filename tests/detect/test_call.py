"""``scaleprior.detect(...)``: the command's training and evaluation, from Python's words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import scaleprior as sp
from scaleprior.backbones import Card, ResNetSpec, build_resnet, save_backbone, to_detectron2
from scaleprior.backbones.trunks.published import Origin
from scaleprior.config import parse_overrides
from scaleprior.errors import UserError
from tests.backbones.foreign import write_telling
from tests.detect.conftest import TINY_FPN, make_coco

CONFIG = {"_BASE_": "COCO-Detection/Base-RCNN-FPN.yaml", **dict(parse_overrides([*TINY_FPN, "SOLVER.MAX_ITER", "2"]))}


def test_train_evaluate_and_evaluate_again(tmp_path: Path) -> None:
    train, val = make_coco(tmp_path / "train"), make_coco(tmp_path / "val", seed=1)
    seen: list[int] = []
    run = sp.detect(
        CONFIG, tmp_path / "run", train=train, val=val, engine="torchvision",
        progress=lambda done, total, numbers: seen.append(done),
    )  # fmt: skip
    assert run.engine == "torchvision"
    assert run.model == tmp_path / "run" / "model.safetensors"
    assert list(run.results) == ["instances_val"]  # both files are called instances.json
    assert run.ap == run.results["instances_val"].ap
    assert seen[:2] == [1, 2]
    again = sp.detect(CONFIG, tmp_path / "again", model=run.model, val=val, engine="torchvision")
    assert again.ap == run.ap
    assert {p.name for p in (tmp_path / "again").iterdir()} >= {"results.json"}


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def save_start(path: Path, seed: int = 0) -> Path:
    """A backbone for ``CONFIG`` with fresh weights."""
    spec = ResNetSpec(res2_out_channels=16, width_per_group=4)
    torch.manual_seed(seed)
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # what the base config says
    card = Card(name="mine", arch=spec, pixel_mean=mean, pixel_std=std, channel_order="RGB")
    save_backbone(path, to_detectron2(build_resnet(spec).state_dict()), card)
    return path


def test_a_backbone_in_memory_is_what_the_detector_starts_from(tmp_path: Path) -> None:
    backbone = sp.load_backbone(save_start(tmp_path / "w.safetensors"))
    data = make_coco(tmp_path / "data")
    common = {"train": data, "val": data, "engine": "torchvision"}
    memory = sp.detect(CONFIG, tmp_path / "memory", weights=backbone, **common)
    file = sp.detect(CONFIG, tmp_path / "file", weights=tmp_path / "w.safetensors", **common)
    assert memory.model.read_bytes() == file.model.read_bytes()
    assert {p.name for p in (tmp_path / "memory").iterdir()} == {p.name for p in (tmp_path / "file").iterdir()}


def test_assumed_facts_are_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start = save_start(tmp_path / "w.safetensors")
    tensors, card = sp.load_backbone(start)
    save_backbone(start, tensors, replace(card, facts={"pixel_mean": Origin("assumed", "usual values of somebody")}))
    data = make_coco(tmp_path / "data")
    sp.detect(CONFIG, tmp_path / "run", weights=start, train=data, val=data, engine="torchvision")
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("assumed")]
    assert said == [
        "assumed, not known, of backbone mine: pixel_mean [123.675, 116.28, 103.53] (usual values of somebody); "
        "a wrong value costs AP in silence"
    ]


def test_a_foreign_file_trains_what_its_conversion_by_hand_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))
    source = write_telling(tmp_path / "x.pth")
    sp.convert(source, tmp_path / "x.safetensors")
    data = make_coco(tmp_path / "data")
    models = {}
    for name, weights in (("hand", tmp_path / "x.safetensors"), ("way", source), ("text", str(source))):
        run = sp.detect(CONFIG, tmp_path / name, weights=weights, train=data, val=data, engine="torchvision")
        models[name] = run.model.read_bytes()
    key = {**CONFIG, "MODEL.WEIGHTS": str(source)}
    models["key"] = sp.detect(key, tmp_path / "key", train=data, val=data, engine="torchvision").model.read_bytes()
    assert len(set(models.values())) == 1
    assert len(list((tmp_path / "home" / "zoo" / "converted").iterdir())) == 1


def test_a_foreign_file_that_says_too_little_is_refused_before_any_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))
    state = torch.load(write_telling(tmp_path / "x.pth"), weights_only=True)
    torch.save(
        {f"backbone.bottom_up.{k}": v for k, v in to_detectron2(state).items()}, _folder(tmp_path / "y") / "net.pth"
    )
    data = make_coco(tmp_path / "data")
    for options in (
        {"weights": tmp_path / "y" / "net.pth"},
        {"overrides": {"MODEL.WEIGHTS": str(tmp_path / "y" / "net.pth")}},
    ):
        report = sp.check(CONFIG, tmp_path / "run", engine="torchvision", **options)
        (finding,) = [found for found in report.findings if found.kind == "weights"]
        assert "--channel-order RGB|BGR" in finding.what + finding.hint
        with pytest.raises(
            UserError, match=r"does not say pixel_mean, .* convert it with `scaleprior backbone convert"
        ):
            sp.detect(CONFIG, tmp_path / "run", train=data, val=data, engine="torchvision", **options)
    assert not (tmp_path / "run").exists()


def test_a_refused_run_with_a_backbone_in_memory_writes_nothing(tmp_path: Path) -> None:
    """Not even where another run, here a pretraining, has left its own backbone."""
    other = tmp_path / "r50"
    other.mkdir()
    before = save_start(other / "backbone.safetensors", seed=1).read_bytes()
    (other / "run.json").write_text('{"fingerprint": "of a pretraining"}')
    backbone = sp.load_backbone(save_start(tmp_path / "w.safetensors"))
    data = make_coco(tmp_path / "data")
    common = {"train": data, "val": data, "engine": "torchvision", "weights": backbone}
    for out, message, options in (
        (other, "holds a run with another config, backbone or data", {"resume": True}),
        (other, "contradicts the card of backbone mine", {"overrides": {"MODEL.RESNETS.DEPTH": 101}}),
        (tmp_path / "new", "SOLVER.MAX_ITER", {"overrides": {"SOLVER.MAX_ITER": -1}}),
    ):
        with pytest.raises(UserError, match=message):
            sp.detect(CONFIG, out, **common, **options)
    assert (other / "backbone.safetensors").read_bytes() == before
    assert {p.name for p in other.iterdir()} == {"backbone.safetensors", "run.json"}
    assert not (tmp_path / "new").exists()


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model is a trained detector, which is only evaluated"):
        sp.detect(CONFIG, tmp_path, model="m.safetensors", weights="w.safetensors", engine="torchvision")
    with pytest.raises(UserError, match=r"val is \('a.json',\); give a set's name"):
        sp.detect(CONFIG, tmp_path, val=("a.json",), engine="torchvision")  # type: ignore[arg-type]
