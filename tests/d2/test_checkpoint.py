"""Backbones through Detectron2's own loading path: every tensor arrives, and what does not fit is refused."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger

import scaleprior.d2
from scaleprior.backbones import ResNetSpec, export_backbone, load_backbone
from scaleprior.backbones.trunks.published import Origin
from scaleprior.errors import UserError
from tests.d2.conftest import NARROW, backbone_file, tiny

RIGHT = {
    "MODEL.PIXEL_MEAN": [127.5] * 3,
    "MODEL.PIXEL_STD": [127.5] * 3,
    "INPUT.FORMAT": "RGB",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.DEVICE": "cpu",
}


def model_for(spec: ResNetSpec, kind: str, **keys: Any) -> torch.nn.Module:
    """Detectron2's detector of Detectron2's own defaults around a trunk of ``spec``."""
    cfg = get_cfg()
    if kind == "FPN":
        stages = ["res2", "res3", "res4", "res5"]
        cfg.merge_from_list(
            [
                *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RESNETS.OUT_FEATURES", stages),
                *("MODEL.FPN.IN_FEATURES", stages, "MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"]),
                *("MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64], [128], [256], [512]]),
                *("MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"]),
                *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC", 1),
                *("MODEL.ROI_BOX_HEAD.FC_DIM", 8, "MODEL.FPN.OUT_CHANNELS", 8),
                *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7),
            ]
        )
    values = {**spec.to_cfg_keys(), **RIGHT, **keys}
    cfg.merge_from_list([word for pair in values.items() for word in pair])
    return build_model(cfg)


def trunk_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The trunk's tensors without the prefix they have in the model; spelled out here, not taken from the plugin."""
    found = {}
    for name, tensor in model.state_dict().items():
        for prefix in ("backbone.bottom_up.", "roi_heads.", "backbone."):
            bare = name.removeprefix(prefix)
            if name.startswith(prefix) and bare.split(".")[0] in ("stem", "res2", "res3", "res4", "res5"):
                found[bare] = tensor
                break
    return {name: t for name, t in found.items() if not name.endswith("num_batches_tracked")}


DEPTHS = [("FPN", 18), ("FPN", 34), ("FPN", 50), ("FPN", 101), ("FPN", 152), ("C4", 50), ("C4", 101), ("C4", 152)]


@pytest.mark.parametrize(("kind", "depth"), DEPTHS)
def test_every_tensor_arrives(kind: str, depth: int, tmp_path: Path) -> None:
    """In the canonical form and as the exported pickle: all tensors of the file are in the model, bit by bit.

    Bottlenecks are narrow; those of the published widths have the same names.
    """
    spec = ResNetSpec(depth=depth) if depth < 50 else replace(NARROW, depth=depth)
    card = backbone_file(tmp_path / "w.safetensors", spec)
    tensors, _ = load_backbone(tmp_path / "w.safetensors")
    export_backbone(tensors, card, tmp_path / "w.pkl")
    for name in ("w.safetensors", "w.pkl"):
        model = model_for(spec, kind)
        DetectionCheckpointer(model).load(str(tmp_path / name))
        trunk = trunk_of(model)
        assert set(trunk) == set(tensors)
        assert all(torch.equal(trunk[key], tensors[key]) for key in tensors)


def test_the_stock_trainer_takes_a_file_and_a_name_of_the_zoo(
    tmp_path: Path, coco: list[str], monkeypatch: pytest.MonkeyPatch, cli: Any
) -> None:
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))
    card = backbone_file(tmp_path / "mine.safetensors")
    added = cli("zoo", "add", tmp_path / "mine.safetensors", "--name", "mine", SCALEPRIOR_HOME=str(tmp_path / "home"))
    assert added.returncode == 0, added.stderr
    cfg = tiny("FPN", [*coco, "OUTPUT_DIR", str(tmp_path / "out")]).cfg.clone()
    cfg.defrost()
    scaleprior.d2.register_datasets(cfg)
    scaleprior.d2.apply_card(cfg, card)
    tensors, _ = load_backbone(tmp_path / "mine.safetensors")
    log, theirs = tmp_path / "log.txt", logging.getLogger("detectron2")
    for name in ("handlers", "level", "propagate"):  # setup_logger changes them for good
        monkeypatch.setattr(theirs, name, list(theirs.handlers) if name == "handlers" else getattr(theirs, name))
    setup_logger(str(log))  # as any user's script does
    for weights in (str(tmp_path / "mine.safetensors"), "scaleprior://mine"):
        cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = weights, "cpu"
        trainer = DefaultTrainer(cfg)
        trainer.resume_or_load(resume=False)
        trunk = trunk_of(trainer.model)
        assert all(torch.equal(trunk[key], tensors[key]) for key in tensors)
    assert log.read_text().count("265 of its 265 tensors fill the trunk") == 2


class Densepose(DetectionCheckpointer):
    """As projects extend it: a hook on what is read, another on what did not fit."""

    def _load_file(self, filename: str) -> Any:
        self.read = super()._load_file(filename)
        return self.read

    def _load_model(self, checkpoint: Any) -> Any:
        self.incompatible = super()._load_model(checkpoint)
        self.absent = list(self.incompatible.missing_keys)
        return self.incompatible


@pytest.mark.parametrize("name", ["w.safetensors", "w.pkl", "w.safetensors?matching_heuristics=True"])
def test_a_project_with_its_own_checkpointer(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It gets what it would get of Detectron2: the keys that do not fit (none), and no tensors in what is left over."""
    card = backbone_file(tmp_path / "w.safetensors")
    tensors, _ = load_backbone(tmp_path / "w.safetensors")
    export_backbone(tensors, card, tmp_path / "w.pkl")
    model = model_for(NARROW, "FPN")
    checkpointer = Densepose(model)
    left = checkpointer.load(str(tmp_path / name))
    assert "model" not in left
    assert (checkpointer.absent, checkpointer.incompatible.unexpected_keys) == ([], [])
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in trunk_of(model).items())
    assert "not found in the checkpoint" not in caplog.text  # the heads are new, and that is what a backbone is for
    assert checkpointer.load(str(tmp_path / name)).keys() == left.keys()  # the same object again


def test_a_model_in_several_processes(tmp_path: Path) -> None:
    """Wrapped for distributed training, as DefaultTrainer does it, and with the contract still checked."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        backbone_file(tmp_path / "w.safetensors")
        tensors, _ = load_backbone(tmp_path / "w.safetensors")
        model = model_for(NARROW, "FPN")
        DetectionCheckpointer(torch.nn.parallel.DistributedDataParallel(model)).load(str(tmp_path / "w.safetensors"))
        assert all(torch.equal(tensor, tensors[key]) for key, tensor in trunk_of(model).items())
        wrong = torch.nn.parallel.DistributedDataParallel(model_for(NARROW, "FPN", **{"INPUT.FORMAT": "BGR"}))
        with pytest.raises(UserError, match=r"INPUT\.FORMAT RGB"):
            DetectionCheckpointer(wrong).load(str(tmp_path / "w.safetensors"))
    finally:
        torch.distributed.destroy_process_group()


WRONG = [
    ("MODEL.PIXEL_MEAN", [103.53, 116.28, 123.675], "MODEL.PIXEL_MEAN '[127.5, 127.5, 127.5]'"),
    ("MODEL.PIXEL_STD", [1.0, 1.0, 1.0], "MODEL.PIXEL_STD '[127.5, 127.5, 127.5]'"),
    ("INPUT.FORMAT", "BGR", "INPUT.FORMAT RGB"),
    ("MODEL.RESNETS.STRIDE_IN_1X1", True, "MODEL.RESNETS.STRIDE_IN_1X1 False"),
]


@pytest.mark.parametrize(("key", "value", "line"), WRONG)
@pytest.mark.parametrize("kind", ["C4", "FPN"])
def test_a_silent_mix_up_is_an_error_that_prints_the_line(
    key: str, value: Any, line: str, kind: str, tmp_path: Path
) -> None:
    backbone_file(tmp_path / "w.safetensors", NARROW)
    model = model_for(NARROW, kind, **{key: value})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as error:
        DetectionCheckpointer(model).load(str(tmp_path / "w.safetensors"))
    assert line in str(error.value)
    assert str(error.value).count("MODEL.") + str(error.value).count("INPUT.") == 2  # nothing else is blamed
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("built", "words"),
    [
        # 17 more blocks of 3 convolutions with a weight and 4 norm tensors each
        (ResNetSpec(depth=101, res2_out_channels=16, width_per_group=4), "255 tensors of the model's trunk"),
        (ResNetSpec(depth=50, res2_out_channels=32, width_per_group=8), "have other shapes"),
        (ResNetSpec(depth=50, norm="GN", res2_out_channels=128, width_per_group=32), "have other shapes"),
    ],
)
def test_another_architecture_is_an_error(built: ResNetSpec, words: str, tmp_path: Path) -> None:
    backbone_file(tmp_path / "w.safetensors", NARROW)
    with pytest.raises(UserError, match=words):
        DetectionCheckpointer(model_for(built, "FPN", **{"MODEL.RESNETS.NORM": built.norm})).load(
            str(tmp_path / "w.safetensors")
        )


@pytest.mark.parametrize("name", ["w.safetensors", "w.pkl"])
def test_assumed_facts_are_said_once(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By the stock checkpointer, which every trainer of the plugin loads with."""
    facts = {"stride_in_1x1": Origin("assumed", "usual values")}
    card = backbone_file(tmp_path / "w.safetensors", facts=facts)
    export_backbone(load_backbone(tmp_path / "w.safetensors").tensors, card, tmp_path / "w.pkl")
    model = model_for(NARROW, "FPN")
    caplog.clear()
    DetectionCheckpointer(model).load(str(tmp_path / name))
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("assumed")]
    assert said == [
        "assumed, not known, of backbone w: stride_in_1x1 False (usual values); a wrong value costs AP in silence"
    ]


def test_a_deeper_backbone_is_not_cut_to_fit(tmp_path: Path) -> None:
    deep = ResNetSpec(depth=101, res2_out_channels=16, width_per_group=4)
    backbone_file(tmp_path / "w.safetensors", deep)
    with pytest.raises(UserError, match="of its tensors have no place"):
        DetectionCheckpointer(model_for(NARROW, "FPN")).load(str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("last", ["res4", "res5"])
def test_a_timm_trunk_under_a_pyramid_with_norms(last: str, tmp_path: Path) -> None:
    """BiT's last norm is called norm.weight, and so are those of the pyramid; a stage that is left out is no loss."""
    from scaleprior.backbones import Card, TimmSpec, build_trunk, save_backbone

    arch = TimmSpec("resnetv2_50x1_bit")
    torch.manual_seed(0)
    state = build_trunk(arch).body.state_dict()
    card = Card(name="bit", arch=arch, pixel_mean=[127.5] * 3, pixel_std=[127.5] * 3, channel_order="RGB")
    save_backbone(tmp_path / "bit.safetensors", state, card)
    stages = ["res2", "res3", "res4", "res5"][: int(last[3]) - 1]
    keys = ["MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.TIMM.MODEL", arch.model]
    keys += [
        "MODEL.RESNETS.NORM",
        "GN",
        "MODEL.RESNETS.OUT_FEATURES",
        str(stages),
        "MODEL.FPN.IN_FEATURES",
        str(stages),
    ]
    keys += ["MODEL.FPN.NORM", "GN", "MODEL.FPN.OUT_CHANNELS", "32", "INPUT.FORMAT", "RGB"]
    keys += ["MODEL.ROI_HEADS.IN_FEATURES", "['p2']", "MODEL.RPN.IN_FEATURES", "['p2', 'p3', 'p4', 'p5']"]
    keys += ["MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [64], [128], [256]]"]
    keys += ["MODEL.PIXEL_MEAN", str([127.5] * 3), "MODEL.PIXEL_STD", str([127.5] * 3)]
    model = build_model(tiny("FPN", keys).cfg)
    DetectionCheckpointer(model).load(str(tmp_path / "bit.safetensors"))
    loaded = {n.removeprefix("backbone.bottom_up."): t for n, t in model.state_dict().items() if "bottom_up" in n}
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.items())
    left_out = {name for name in state if name not in loaded}
    # res4 passes the norm that the next stage begins with, as the network itself does
    behind = {n for n in state if n.startswith(("stages.3.", "norm.")) and ".blocks.0.norm1." not in n}
    assert left_out == (behind if last == "res4" else set())


def test_a_file_without_a_card_is_refused_and_others_load_as_before(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = model_for(NARROW, "FPN")
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(UserError, match=r"no ScalePrior card; `scaleprior backbone convert`"):
        DetectionCheckpointer(model).load(str(tmp_path / "bare.safetensors"))
    own = {name: torch.ones_like(tensor) for name, tensor in model.state_dict().items()}
    torch.save({"model": own, "iteration": 7}, tmp_path / "own.pth")
    assert DetectionCheckpointer(model).load(str(tmp_path / "own.pth")) == {"iteration": 7}
    assert all(bool((tensor == 1).all()) for tensor in model.state_dict().values())


def test_names_resolve_in_detectron2s_path_manager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path))
    with pytest.raises(UserError, match="not public"):
        PathManager.get_local_path("scaleprior://paper-R-50-jft-10m")


def test_apply_card_sets_what_the_card_says(tmp_path: Path) -> None:
    spec = ResNetSpec(depth=152)
    card = backbone_file(tmp_path / "w.safetensors", spec)
    cfg = get_cfg()
    scaleprior.d2.add_scaleprior_config(cfg)
    assert [m.key for m in scaleprior.d2.check_contract(cfg, card)] == [
        "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.FORMAT", "MODEL.RESNETS.DEPTH", "MODEL.RESNETS.STRIDE_IN_1X1",
    ]  # fmt: skip
    scaleprior.d2.apply_card(cfg, card)
    assert (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.STRIDE_IN_1X1, cfg.INPUT.FORMAT) == (152, False, "RGB")
    assert cfg.MODEL.PIXEL_MEAN == [127.5] * 3
    assert cfg.MODEL.RESNETS.NORM == "FrozenBN"
    assert scaleprior.d2.check_contract(cfg, card) == []
    cfg.INPUT.FORMAT = "BGR"
    with pytest.raises(UserError, match=r"INPUT\.FORMAT RGB"):
        scaleprior.d2.apply_card(cfg, card, explicit=["INPUT.FORMAT"])
