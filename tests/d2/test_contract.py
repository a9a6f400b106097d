"""The contract at the edges of Detectron2: models that keep little of their config, wrapped ones, LazyConfigs' ones."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision.ops import DeformConv2d

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, LazyCall as L, LazyConfig, get_cfg, instantiate
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.data.samplers import TrainingSampler
from detectron2.engine import DefaultTrainer, SimpleTrainer
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, build_model
from detectron2.modeling.backbone import resnet
from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock, ResNet

import scaleprior.d2
from scaleprior.backbones import Card, ResNetSpec, load_backbone
from scaleprior.d2.trunks.timm_backbones import TimmBackbone
from scaleprior.d2.weights.built import note_around
from scaleprior.d2.weights.checkpoint import extend_checkpointer
from scaleprior.d2.weights.pixels import loader_order
from scaleprior.d2.zoo_files import zoo_file
from scaleprior.errors import UserError
from tests.d2.conftest import NARROW, timm_file, tiny
from tests.d2.test_checkpoint import model_for, trunk_of
from tests.d2.test_timm_backbones import BIT

HALF = [127.5] * 3
BGR = {"MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675], "MODEL.PIXEL_STD": [1.0] * 3, "INPUT.FORMAT": "BGR"}
SEGMENTOR = {
    "MODEL.META_ARCHITECTURE": "SemanticSegmentor",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["p2", "p3"],
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
}


def refusal(model: nn.Module, weights: str, **companions: Any) -> str:
    with pytest.raises(UserError) as error:
        DetectionCheckpointer(model, **companions).load(weights)
    return str(error.value)


ARCHITECTURES = {
    "SemanticSegmentor": SEGMENTOR,
    "PanopticFPN": {**SEGMENTOR, "MODEL.META_ARCHITECTURE": "PanopticFPN"},
    "ProposalNetwork": {"MODEL.META_ARCHITECTURE": "ProposalNetwork"},
    "RetinaNet": {
        "MODEL.META_ARCHITECTURE": "RetinaNet", "MODEL.RETINANET.IN_FEATURES": ["p3"], "MODEL.RETINANET.NUM_CONVS": 1,
        "MODEL.ANCHOR_GENERATOR.SIZES": [[32]],
    },
}  # fmt: skip


@pytest.mark.parametrize("keys", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_a_model_that_does_not_keep_its_order_is_held_to_its_config(keys: dict[str, Any], weights: str) -> None:
    """Most have no input_format at all; the statistics are right here, so that only the order can be blamed."""
    text = refusal(model_for(NARROW, "FPN", **keys, **{"INPUT.FORMAT": "BGR"}), weights)
    assert text.endswith("w: INPUT.FORMAT is 'BGR'; use INPUT.FORMAT RGB")
    model = model_for(NARROW, "FPN", **keys)
    DetectionCheckpointer(model).load(weights)
    tensors, _ = load_backbone(weights)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in trunk_of(model).items())


def test_what_is_registered_is_what_is_looked_up(weights: str) -> None:
    """Classes stay themselves, their copies keep the note, and builders that are functions note it, too."""
    assert META_ARCH_REGISTRY.get("GeneralizedRCNN") is GeneralizedRCNN
    extend_checkpointer()  # and no second layer
    assert getattr(GeneralizedRCNN.__init__, "__wrapped__", None) is not None
    assert getattr(GeneralizedRCNN.__init__.__wrapped__, "__name__", "") == "__init__"

    def Builder(cfg: CfgNode) -> nn.Module:
        return GeneralizedRCNN(**GeneralizedRCNN.from_config(cfg))

    META_ARCH_REGISTRY.register(Builder)
    try:
        model = model_for(NARROW, "C4", **{"MODEL.META_ARCHITECTURE": "Builder"})
    finally:
        del META_ARCH_REGISTRY._obj_map["Builder"]
    for same in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        note = note_around(same, "backbone")
        assert note is not None
        assert note == ("RGB", True, False)
    assert note_around(GeneralizedRCNN(**GeneralizedRCNN.from_config(narrow_c4())), "backbone") is None


def narrow_c4() -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(
        [word for pair in {**(NARROW.to_cfg_keys() or {}), "MODEL.DEVICE": "cpu"}.items() for word in pair]
    )
    return cfg


class Wrapper(nn.Module):
    """As semi-supervised and distilling trainers have it."""

    def __init__(self, student: nn.Module, teacher: nn.Module | None = None) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher


@pytest.mark.parametrize(
    "wrap",
    [
        Wrapper,
        lambda m: Wrapper(nn.DataParallel(m)),
        torch.compile,
        copy.deepcopy,
        lambda m: nn.Sequential(m),
        AveragedModel,
    ],
)
def test_a_wrapped_detector_is_found(wrap: Callable[[nn.Module], nn.Module], weights: str) -> None:
    wrong = refusal(wrap(model_for(NARROW, "FPN", **BGR)), weights)
    assert "PIXEL_MEAN is [103.53, 116.28, 123.675], MODEL.PIXEL_STD is [1, 1, 1], INPUT.FORMAT is 'BGR'; " in wrong
    inner = model_for(NARROW, "FPN")
    wrapped = wrap(inner)
    DetectionCheckpointer(wrapped).load(weights)
    tensors, _ = load_backbone(weights)
    filled = {name.partition("bottom_up.")[2]: tensor for name, tensor in wrapped.state_dict().items()}
    assert all(torch.equal(filled[name], tensor) for name, tensor in tensors.items())


def test_two_trunks_are_both_filled_and_both_held(weights: str, said: Callable[[str], list[str]]) -> None:
    both = Wrapper(model_for(NARROW, "C4"), model_for(NARROW, "FPN"))
    DetectionCheckpointer(both).load(weights)
    (line,) = said("fill the trunk")
    assert "265 of its 265 tensors fill the trunks student.backbone, teacher.backbone.bottom_up; new, " in line
    tensors, _ = load_backbone(weights)
    for part in (both.student, both.teacher):
        trunk = trunk_of(part)
        assert set(trunk) == set(tensors)  # C4's res5 in the student's heads, too
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in trunk.items())
    text = refusal(Wrapper(model_for(NARROW, "C4"), model_for(NARROW, "FPN", **BGR)), weights)
    assert "at teacher.backbone.bottom_up: MODEL.PIXEL_MEAN is [103.53," in text
    deeper = model_for(ResNetSpec(depth=101, res2_out_channels=16, width_per_group=4), "FPN")
    text = refusal(Wrapper(model_for(NARROW, "FPN"), deeper), weights)
    assert (
        "does not fit the trunk at teacher.backbone.bottom_up: 255 tensors of the model's trunk are not in it" in text
    )
    assert "DetectionCheckpointer(model.PART).load(FILE)" in text


class _Deformable(DeformConv2d):
    """torchvision's in the place of Detectron2's own, which needs its compiled part."""

    def __init__(self, *args: Any, deformable_groups: int, norm: nn.Module, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.norm = norm


def test_a_deformable_block_shows_its_stride(
    weights: str, monkeypatch: pytest.MonkeyPatch, said: Callable[[str], list[str]]
) -> None:
    monkeypatch.setattr(resnet, "DeformConv", _Deformable)
    deformable = {"MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, True, True, True]}
    text = refusal(model_for(NARROW, "FPN", **deformable, **{"MODEL.RESNETS.STRIDE_IN_1X1": True}), weights)
    assert text.endswith("STRIDE_IN_1X1 is True; use MODEL.RESNETS.STRIDE_IN_1X1 False")
    DetectionCheckpointer(model_for(NARROW, "FPN", **deformable)).load(weights)
    (line,) = said("fill the trunk")
    assert "new, untrained: backbone (16), backbone.bottom_up (26), " in line  # 13 blocks' offsets, weight and bias


def test_dilated_c5_of_the_zoo(weights: str) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(str(zoo_file("COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml")), allow_unsafe=True)
    right = {"MODEL.PIXEL_MEAN": HALF, "MODEL.PIXEL_STD": HALF, "INPUT.FORMAT": "RGB", "MODEL.DEVICE": "cpu"}
    keys = {**(NARROW.to_cfg_keys() or {}), **right, "MODEL.ROI_BOX_HEAD.FC_DIM": 8}
    cfg.merge_from_list([word for pair in keys.items() for word in pair])
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = True
    assert refusal(build_model(cfg), weights).endswith("use MODEL.RESNETS.STRIDE_IN_1X1 False")
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    model = build_model(cfg)
    DetectionCheckpointer(model).load(weights)
    assert model.backbone.output_shape()["res5"].stride == 16
    tensors, _ = load_backbone(weights)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in trunk_of(model).items())


def lazy(name: str, *, stride_in_1x1: bool = False, **keys: Any) -> Any:
    """A model of Detectron2's LazyConfigs with the narrow trunk."""
    cfg = LazyConfig.load(str(zoo_file(f"common/models/{name}.py"))).model
    stages = [
        L(ResNet.make_stage)(
            block_class=BottleneckBlock, num_blocks=blocks, stride_per_block=[1 if n == 0 else 2] + [1] * (blocks - 1),
            in_channels=64 if n == 0 else 8 * 2**n, bottleneck_channels=4 * 2**n, out_channels=16 * 2**n,
            stride_in_1x1=stride_in_1x1, norm="FrozenBN",
        )
        for n, blocks in enumerate((3, 4, 6, 3))
    ]  # fmt: skip
    cfg.backbone.bottom_up.stages = stages
    cfg.backbone.bottom_up.stem = L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN")
    cfg.update({"pixel_mean": HALF, "pixel_std": HALF, **keys})
    return cfg


def trainer(model: nn.Module, mapper: Any) -> SimpleTrainer:
    """What tools/lazyconfig_train_net.py gives its checkpointer."""
    images = [{"file_name": "x.png", "width": 3, "height": 2, "annotations": []}] * 4
    loader = build_detection_train_loader(
        images, mapper=mapper, total_batch_size=2, sampler=TrainingSampler(4), num_workers=0
    )
    return SimpleTrainer(model, loader, torch.optim.SGD(model.parameters(), 0.1))


def reads(order: str) -> DatasetMapper:
    return DatasetMapper(is_train=True, augmentations=[], image_format=order)


@pytest.mark.parametrize(("name", "shown"), [("fcos", {}), ("mask_rcnn_fpn", {"input_format": "RGB"})])
def test_a_lazy_model_is_held_to_what_its_mapper_reads(
    name: str, shown: dict[str, str], weights: str, said: Callable[[str], list[str]]
) -> None:
    """``model.input_format``, which FCOS has not, serves drawing: right or wrong, it does not say what is read."""
    model = instantiate(lazy(name, **shown))
    text = refusal(model, weights, trainer=trainer(model, reads("BGR")))
    assert text.endswith("mapper.image_format is 'BGR'; use dataloader.train.mapper.image_format=RGB")
    said("")
    DetectionCheckpointer(model, trainer=trainer(model, reads("RGB"))).load(weights)
    assert not said("")  # all is known, and who trains is not warned of new heads
    DetectionCheckpointer(model).load(weights)
    (line,) = said("could not check")
    known = "model.input_format is RGB, which only drawing goes by" if shown else "the model has no input_format"
    assert f"against backbone w: channel order (the backbone expects RGB; {known}, and dataloader.train." in line
    DetectionCheckpointer(model).load(weights)
    assert not said("could not check")  # once for every model


def test_a_lazy_models_hints_are_assignments(weights: str) -> None:
    wrong = {"pixel_mean": [103.53, 116.28, 123.675], "pixel_std": [1.0] * 3}
    assert "use model.student.input_format=RGB dataloader.train.mapper.image_format=RGB" in refusal(
        Wrapper(instantiate(lazy("mask_rcnn_fpn"))), weights
    )
    model = instantiate(lazy("mask_rcnn_fpn", stride_in_1x1=True, input_format="BGR", **wrong))
    hint = refusal(model, weights).partition("; use ")[2]
    assert hint == (
        "model.pixel_mean=[127.5,127.5,127.5] model.pixel_std=[127.5,127.5,127.5] model.input_format=RGB "
        "dataloader.train.mapper.image_format=RGB model.backbone.bottom_up.stages.stride_in_1x1=False"
    )
    overridden = LazyConfig.apply_overrides(LazyConfig.load(str(zoo_file("common/models/fcos.py"))), hint.split()[:2])
    assert list(overridden.model.pixel_mean) == HALF  # the words are LazyConfig's
    for norm in model.backbone.bottom_up.modules():
        if isinstance(norm, FrozenBatchNorm2d):
            norm.eps = 1e-3
    assert "use eps 1e-05 in the norms of model.student.backbone.bottom_up, or a backbone that" in refusal(
        Wrapper(instantiate(lazy("fcos")).requires_grad_(False).apply(_other_eps)), weights
    )


def _other_eps(module: nn.Module) -> None:
    if isinstance(module, FrozenBatchNorm2d):
        module.eps = 1e-3


class Transformer(nn.Module):
    """As DETR, Sparse R-CNN and detrex's models keep their statistics: in a function that closes over them."""

    def __init__(self, trunk: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.backbone = nn.ModuleList([nn.ModuleDict({"backbone": trunk})])
        self.query_embed = nn.Embedding(4, 8)
        pixel_mean, pixel_std = (torch.tensor(value).view(3, 1, 1) for value in (mean, std))
        self.normalizer = lambda x: (x - pixel_mean) / pixel_std


class Preprocess(nn.Module):
    """As mmdet's and torchvision's modules that prepare images."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.std = [torch.tensor(s) for s in std]


def test_statistics_are_found_wherever_they_are(weights: str, said: Callable[[str], list[str]]) -> None:
    def trunk() -> nn.Module:
        return instantiate(lazy("fcos").backbone.bottom_up)

    text = refusal(Transformer(trunk(), [103.53, 116.28, 123.675], [1.0] * 3), weights)
    assert "model.pixel_mean is [103.53, 116.28, 123.675], model.pixel_std is [1, 1, 1]; use model.pixel_mean=" in text
    model = Transformer(trunk(), HALF, HALF)
    DetectionCheckpointer(model).load(weights)
    assert "pixel" not in " ".join(said("could not check"))

    model = nn.ModuleDict({"prepare": Preprocess([0.5] * 3, [0.5] * 3), "backbone": trunk()})  # of pixels in [0, 1]
    DetectionCheckpointer(model).load(weights)
    assert "pixel" not in " ".join(said("could not check"))
    model = nn.ModuleDict({"prepare": Preprocess(HALF, [1.0] * 3), "backbone": trunk()})
    assert "model.prepare.std is [1, 1, 1]; use model.prepare.std=[127.5,127.5,127.5]" in refusal(model, weights)

    bare = nn.ModuleDict({"backbone": trunk()})
    DetectionCheckpointer(bare).load(weights)
    (line,) = said("could not check")
    assert "pixel statistics (no module around the trunk has any; it expects pixel_mean [127.5, 127.5, 127.5]" in line
    other = Wrapper(bare, model_for(NARROW, "FPN"))  # a teacher's statistics are not the student's
    DetectionCheckpointer(other).load(weights)
    assert "pixel statistics (no module" in said("could not check")[0]


def with_mapper(mapper: Any) -> Callable[[type, CfgNode], Any]:
    """A ``build_train_loader`` as people override it."""
    build: Any = build_detection_train_loader  # a config in the place of its arguments, which no checker sees
    return lambda cls, cfg: build(cfg, mapper=mapper)


@pytest.mark.parametrize("base", [DefaultTrainer, scaleprior.d2.Trainer])
def test_a_trainer_with_a_mapper_of_ones_own(
    base: type[DefaultTrainer], weights: str, coco: list[str], said: Callable[[str], list[str]]
) -> None:
    """INPUT.FORMAT is right and the mapper does not care."""

    Own = type("Own", (base,), {"build_train_loader": classmethod(with_mapper(reads("BGR")))})
    cfg = tiny("FPN", coco).cfg.clone()
    cfg.defrost()
    scaleprior.d2.register_datasets(cfg)
    scaleprior.d2.apply_card(cfg, card_of(weights))
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = weights, "cpu"
    with pytest.raises(UserError, match=r"mapper is 'BGR'; use a data mapper that reads images as INPUT\.FORMAT says"):
        Own(cfg).resume_or_load(resume=False)
    trainer = base(cfg)
    trainer.resume_or_load(resume=False)
    assert loader_order([trainer]) == "RGB"
    assert not said("could not check")
    # as in Detectron2's tutorial, whose function reads BGR whatever the key says
    Function = type("Function", (base,), {"build_train_loader": classmethod(with_mapper(lambda record: record))})
    Function(cfg).resume_or_load(resume=False)
    (line,) = said("could not check")
    assert (
        "channel order (INPUT.FORMAT is RGB, as the backbone expects; the mapper of the training loader does not"
        in line
    )


def test_the_eps_of_a_timm_trunk_is_looked_at(tmp_path: Path) -> None:
    timm_file(tmp_path / "b.safetensors", BIT)
    model = nn.ModuleDict({"backbone": TimmBackbone(BIT, norm="GN", norm_eps=1e-3)})
    text = refusal(model, str(tmp_path / "b.safetensors"))
    assert "eps of model.backbone's norms is 0.001; use eps 1e-05 in the norms of model.backbone, or a backbone" in text


def card_of(weights: str) -> Card:
    return load_backbone(weights).card


def test_other_trunks_do_not_take_a_resnets_weights(weights: str) -> None:
    from detectron2.modeling import SwinTransformer, ViT

    for trunk in (
        SwinTransformer(embed_dim=12, depths=(1, 1), num_heads=(1, 1), out_indices=(0, 1)),
        ViT(img_size=32, embed_dim=24, depth=1, num_heads=2, residual_block_indexes=(0,), window_block_indexes=()),
    ):
        text = refusal(nn.ModuleDict({"backbone": trunk}), weights)
        assert text.startswith(
            "none of the 265 tensors of backbone w fits this model; take weights of the architecture"
        )
