"""Facts that files and what lies beside them state: each file made the way its program makes it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.utils import CheckpointSaver
from torch import Tensor
from torchvision.models import resnet18

from benchmarks.exactness import randomise
from scaleprior.backbones import ReadOptions, ResNetSpec, build_resnet, read_backbone, to_detectron2
from scaleprior.backbones.readers.facts import UnknownFactsError
from scaleprior.backbones.readers.sources.buffers import buffer_facts, hyper_parameter_facts
from scaleprior.backbones.readers.sources.hugging_face import open_clip_facts, transformers_facts
from scaleprior.backbones.readers.sources.openmmlab import openmmlab_facts
from scaleprior.backbones.readers.sources.timm_args import timm_args_facts
from scaleprior.backbones.trunks.published import IMAGENET_MEAN, IMAGENET_STD
from scaleprior.errors import UserError

HALF = (127.5, 127.5, 127.5)
BGR_MEAN = (103.53, 116.28, 123.675)
TRAIN = {
    "model": "resnet18", "num_classes": None, "img_size": None, "input_size": None, "crop_pct": None, "mean": None,
    "std": None, "interpolation": "", "bn_eps": None, "bn_momentum": None, "reprob": 0.0, "remode": "pixel",
    "sched": "cosine", "model_ema": False, "model_kwargs": {}, "data_dir": "/data/imagenet", "lr": 0.05,
}  # fmt: skip
"""Arguments as timm's train.py has them; those that a test needs, and some more."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return randomise(resnet18(num_classes=5), 0).state_dict()


def saved_by_timm(folder: Path, **args: Any) -> Path:
    """What timm's own saver writes as ``model_best.pth.tar``."""
    torch.manual_seed(0)
    model = randomise(timm.create_model("resnet18", num_classes=5), 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    namespace = argparse.Namespace(**{**TRAIN, **args})
    CheckpointSaver(model, optimizer, args=namespace, checkpoint_dir=str(folder)).save_checkpoint(0, metric=1.0)
    return folder / "model_best.pth.tar"


def test_what_timms_training_was_told_is_what_the_card_says(tmp_path: Path) -> None:
    half = {"mean": [0.5, 0.5, 0.5], "std": [0.5], "input_size": [3, 160, 160], "num_classes": 5}
    reading = read_backbone(saved_by_timm(tmp_path, **half))
    card = reading.card
    assert (card.pixel_mean, card.pixel_std, card.channel_order, card.input_size) == (HALF, HALF, "RGB", 160)
    assert card.labels == 5
    assert reading.report.facts["pixel_mean"].where == "args of timm's train.py in the file"


def test_what_timms_training_was_not_told_is_timms_setting_of_the_model(tmp_path: Path) -> None:
    reading = read_backbone(saved_by_timm(tmp_path))
    assert (reading.card.pixel_mean, reading.card.pixel_std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert reading.report.facts["pixel_mean"].where.startswith("timm's own settings of resnet18, which args of timm's")
    half = timm_args_facts({"args": {**TRAIN, "model": "resnet34.ra4_e3600_r224_in1k"}})
    assert [known.pixel_mean for known in half] == [None, HALF]


def test_arguments_of_other_scripts_prove_nothing() -> None:
    for args in ({"mean": [0.5] * 3, "std": [0.5] * 3, "model": "resnet18"}, {**TRAIN, "model": None}, [0.5], None):
        assert timm_args_facts({"args": args}) == []
    unknown = timm_args_facts({"args": {**TRAIN, "model": "my_resnet"}})
    assert [(known.pixel_mean, known.channel_order) for known in unknown] == [(None, "RGB")]


def test_eps_of_the_norms_is_stated(tmp_path: Path) -> None:
    assert timm_args_facts({"args": {**TRAIN, "bn_eps": 1e-3}})[0].norm_eps == 1e-3
    assert timm_args_facts({"args": TRAIN})[0].norm_eps is None


TRANSFORMERS = {
    "model_type": "resnet", "depths": [2, 2, 2, 2], "layer_type": "basic", "hidden_act": "relu",
    "downsample_in_first_stage": False, "downsample_in_bottleneck": False, "embedding_size": 64,
}  # fmt: skip
PROCESSOR = {
    "image_processor_type": "ConvNextImageProcessor", "do_normalize": True, "do_rescale": True,
    "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "rescale_factor": 0.00392156862745098,
}  # fmt: skip


def folder(path: Path, **files: Any) -> Path:
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path / "model.safetensors"


def test_transformers_configs(tmp_path: Path) -> None:
    path = folder(tmp_path, config=TRANSFORMERS, preprocessor_config=PROCESSOR)
    network, pixels = transformers_facts(path)
    assert (network.stride_in_1x1, network.norm_eps, network.pixel_mean) == (False, 1e-5, None)
    assert (pixels.pixel_mean, pixels.pixel_std, pixels.channel_order) == (IMAGENET_MEAN, IMAGENET_STD, "RGB")
    folder(tmp_path, config={**TRANSFORMERS, "downsample_in_bottleneck": True})
    assert transformers_facts(path)[0].stride_in_1x1 is True
    folder(tmp_path, preprocessor_config={**PROCESSOR, "do_normalize": False})
    assert transformers_facts(path)[1].pixel_std == (255.0, 255.0, 255.0)
    folder(tmp_path, preprocessor_config={**PROCESSOR, "do_rescale": False, "image_std": [1, 1, 1]})
    assert transformers_facts(path)[1].pixel_mean == (0.485, 0.456, 0.406)
    for nothing in (
        {**PROCESSOR, "do_flip_channel_order": True},
        {"image_mean": [0.5] * 3},
        {**PROCESSOR, "image_std": 1},
    ):
        folder(tmp_path, preprocessor_config=nothing)
        assert len(transformers_facts(path)) == 1


def test_image_processors_of_other_networks_of_transformers(tmp_path: Path) -> None:
    """A DETR's folder: its trunk's pixels are the processor's, of its stride and eps nothing is said."""
    path = folder(tmp_path, config={"model_type": "detr", "backbone": "resnet50"}, preprocessor_config=PROCESSOR)
    (pixels,) = transformers_facts(path)
    assert (pixels.pixel_mean, pixels.channel_order, pixels.stride_in_1x1) == (IMAGENET_MEAN, "RGB", None)
    folder(tmp_path, config={})
    assert transformers_facts(path) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"hidden_act": "silu"}, "its activation is silu"),
        ({"downsample_in_first_stage": True}, "its first stage strides"),
        ({"depths": [3, 3, 3, 3]}, r"a ResNet of \[3, 3, 3, 3\] blocks"),
    ],
)
def test_transformers_configs_of_other_networks_are_refused(changed: dict, said: str, tmp_path: Path) -> None:
    path = folder(tmp_path, config={**TRANSFORMERS, **changed})
    with pytest.raises(UserError, match=said):
        transformers_facts(path)


def test_a_folder_of_transformers_needs_no_option(state: dict, tmp_path: Path) -> None:
    from benchmarks.exactness import FORMATS

    FORMATS["hugging face transformers"][1](18, tmp_path)
    folder(tmp_path, config=TRANSFORMERS, preprocessor_config=PROCESSOR)
    reading = read_backbone(tmp_path)
    assert (reading.card.arch, reading.card.pixel_mean) == (ResNetSpec(depth=18), IMAGENET_MEAN)
    assert reading.report.facts["pixel_mean"].where == str(tmp_path / "preprocessor_config.json")


def test_open_clips_config(tmp_path: Path) -> None:
    path = folder(tmp_path, open_clip_config={"preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}})
    (known,) = open_clip_facts(path)
    assert (known.pixel_mean, known.pixel_std, known.channel_order) == (HALF, HALF, "RGB")
    for nothing in ({}, {"preprocess_cfg": {"mean": [0.5] * 3}}, {"preprocess_cfg": [1]}, [1]):
        folder(tmp_path, open_clip_config=nothing)
        assert open_clip_facts(path) == []


CAFFE = """
img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
model = dict(
    type='FasterRCNN',
    backbone=dict(type='ResNet', depth=50, norm_cfg=dict(type='BN', requires_grad=False), style='caffe'),
    neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048]))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Normalize', mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)]
"""
PYTORCH = """
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], num_classes=1000, to_rgb=True)
model = dict(backbone=dict(depth=50, type='ResNet', num_stages=4), type='ImageClassifier')
"""


def test_openmmlabs_config_in_the_file() -> None:
    pixels, trunk = openmmlab_facts({"meta": {"config": CAFFE, "epoch": 12}})
    assert (pixels.pixel_mean, pixels.pixel_std, pixels.channel_order) == (BGR_MEAN, (1, 1, 1), "BGR")
    assert (trunk.stride_in_1x1, trunk.norm_eps) == (True, 1e-5)
    pixels, trunk = openmmlab_facts({"meta": {"cfg": PYTORCH}})
    assert (pixels.pixel_mean, pixels.pixel_std, pixels.channel_order) == (IMAGENET_MEAN, IMAGENET_STD, "RGB")
    assert trunk.stride_in_1x1 is False
    (trunk,) = openmmlab_facts({"meta": {"cfg": PYTORCH + "other = dict(mean=[0, 0, 0], std=[1, 1, 1], to_rgb=True)"}})
    assert trunk.pixel_mean is None
    eps = "model = dict(backbone=dict(type='ResNet', norm_cfg=dict(type='BN', eps=0.001), style=STYLE))"
    assert [(known.stride_in_1x1, known.norm_eps) for known in openmmlab_facts({"meta": {"cfg": eps}})] == [
        (None, 1e-3)
    ]


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "(" * 100_000,
        "x = " + "-" * 400_000 + "1",
        "x = " + "a." * 100_000 + "b",
        "x = " + "dict(a=" * 5000 + "1" + ")" * 5000,
        "x = [" + "1 + " * 100_000 + "1]",
        "not a config",
        "\0",
        "img_norm_cfg = open('/etc/passwd')",
        "mean = [1, 2, 3]; std = [1, 1, 1]; img_norm_cfg = dict(mean=mean, std=std, to_rgb=True)",
        "img_norm_cfg = dict(mean=[1, 2, 3], std=[1, 1, 0], to_rgb=True)",
    ],
)
def test_texts_that_are_no_config_say_nothing(text: str) -> None:
    assert openmmlab_facts({"meta": {"cfg": text}}) == []


def test_a_detectors_buffers() -> None:
    def buffers(mean: tuple, std: tuple, prefix: str = "") -> dict[str, Tensor]:
        named = {"pixel_mean": mean, "pixel_std": std}
        return {f"{prefix}{name}": torch.tensor(three)[:, None, None] for name, three in named.items()}

    (known,) = buffer_facts({"model": buffers(BGR_MEAN, (1.0, 1.0, 1.0)), "iteration": 9})
    assert (known.pixel_mean, known.pixel_std, known.channel_order) == (BGR_MEAN, (1, 1, 1), "BGR")
    assert (known.stride_in_1x1, known.kind) == (None, "file")
    (known,) = buffer_facts(buffers(IMAGENET_MEAN, IMAGENET_STD, "module."))
    assert (known.pixel_std, known.channel_order) == (IMAGENET_STD, "RGB")
    (known,) = buffer_facts(buffers((100.0, 110.0, 120.0), (1.0, 1.0, 1.0)))
    assert known.channel_order is None
    two = {**buffers(BGR_MEAN, (1.0, 1.0, 1.0), "teacher."), **buffers(IMAGENET_MEAN, IMAGENET_STD, "student.")}
    assert buffer_facts(two) == []
    assert buffer_facts({"pixel_mean": torch.zeros(3)}) == buffer_facts(torch.zeros(3)) == []
    unit = {"module.normalizer.new_mean": torch.tensor([0.485, 0.456, 0.406])[:, None, None],
            "module.normalizer.new_std": torch.tensor([0.229, 0.224, 0.225])[:, None, None]}  # fmt: skip
    (known,) = buffer_facts({"model": unit})
    assert known.channel_order == "RGB"
    assert known.pixel_mean == pytest.approx(IMAGENET_MEAN, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "mean", "order"),
    [
        ({"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}, IMAGENET_MEAN, "RGB"),
        ({"normalize": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}}, HALF, None),
        ({"mean": [103.53, 116.28, 123.675], "std": [1.0, 1.0, 1.0]}, BGR_MEAN, "BGR"),
    ],
)
def test_hyper_parameters_of_lightning(settings: dict, mean: tuple, order: str | None) -> None:
    (known,) = hyper_parameter_facts({"hyper_parameters": {**settings, "lr": 0.1}})
    assert (known.pixel_mean, known.channel_order) == (mean, order)


def test_hyper_parameters_of_no_scale_say_nothing() -> None:
    for settings in ({"mean": [0, 0, 0], "std": [1, 1, 1]}, {"mean": [0.5] * 3}, {"mean": 0.5, "std": 0.5}, {}, None):
        assert hyper_parameter_facts({"hyper_parameters": settings}) == []


def test_mean_and_std_of_one_place_are_taken_together_with_options(state: dict, tmp_path: Path) -> None:
    torch.save({"state_dict": state, "meta": {"config": PYTORCH}}, tmp_path / "epoch_12.pth")
    reading = read_backbone(tmp_path / "epoch_12.pth", ReadOptions(images=7))
    assert reading.report.facts["pixel_std"].where == "OpenMMLab's config in the file (meta.config)"
    folder(tmp_path, config={"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}})
    save_file(state, tmp_path / "model.safetensors")
    assert read_backbone(tmp_path / "model.safetensors").card.pixel_std == HALF


def test_a_detector_of_detectron2_lacks_only_its_stride(tmp_path: Path) -> None:
    """Its buffers tell the statistics, ImageNet's mean the order, its names the eps; nothing the place of strides."""
    spec = ResNetSpec(res2_out_channels=32, width_per_group=8, stride_in_1x1=True)
    torch.manual_seed(0)
    trunk = to_detectron2(randomise(build_resnet(spec), 0).state_dict())
    state = {f"backbone.bottom_up.{name}": tensor for name, tensor in trunk.items()}
    state |= {"pixel_mean": torch.tensor(BGR_MEAN)[:, None, None], "pixel_std": torch.ones(3, 1, 1)}
    torch.save({"model": state, "iteration": 9}, tmp_path / "model_final.pth")
    with pytest.raises(UnknownFactsError) as error:
        read_backbone(tmp_path / "model_final.pth")
    assert error.value.absent == ("stride_in_1x1",)
    card = read_backbone(tmp_path / "model_final.pth", ReadOptions(stride_in_1x1=True)).card
    assert (card.arch, card.pixel_mean, card.pixel_std, card.channel_order) == (spec, BGR_MEAN, (1, 1, 1), "BGR")
    assert {name: origin.kind for name, origin in card.facts.items()} == {
        "pixel_mean": "file", "pixel_std": "file", "channel_order": "file", "stride_in_1x1": "user", "norm": "file",
        "norm_eps": "publisher",
    }  # fmt: skip
