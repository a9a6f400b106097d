"""Facts in the JSON files that Hugging Face's transformers and OpenCLIP put beside weights.

Read in huggingface/transformers: models/resnet (``ResNetConfig``; ``ResNetBottleNeckLayer`` strides in the first 1x1
where ``downsample_in_bottleneck`` says so; BatchNorm2d with PyTorch's eps). Its image processors rescale, then
normalise, RGB images; OpenCLIP's ``preprocess_cfg`` is of pixels in 0..1.
"""

from __future__ import annotations

from pathlib import Path

from scaleprior.backbones.readers.sources.values import json_beside, scaled, three_numbers
from scaleprior.backbones.trunks.published import KnownFacts, Triple
from scaleprior.backbones.trunks.resnet.spec import BLOCKS_PER_STAGE
from scaleprior.errors import UserError
from scaleprior.wording import shown

__all__ = ["open_clip_facts", "transformers_facts"]

_MODEL_TYPE = "resnet"  # as transformers calls its own
_CONFIG, _PREPROCESSOR, _OPEN_CLIP = "config.json", "preprocessor_config.json", "open_clip_config.json"


def transformers_facts(path: Path) -> list[KnownFacts]:
    """Facts beside a network of transformers: of a ResNet's config, and of any network's image processor.

    Raises:
        UserError: the config describes a network that has the names of a ResNet and is none.
    """
    config = json_beside(path, _CONFIG)
    if config.get("model_type") != _MODEL_TYPE:
        return _processor_facts(path) if isinstance(config.get("model_type"), str) else []
    where = path.parent / _CONFIG
    activation, early = config.get("hidden_act", "relu"), config.get("downsample_in_first_stage", False)
    if activation != "relu" or early:
        what = (
            "its first stage strides"
            if early
            else f"its activation is {activation if isinstance(activation, str) else shown(activation)}"
        )
        raise UserError(
            f"{where} describes a network with the names of a ResNet that is none: {what}", hint="take a plain ResNet"
        )
    depths = config.get("depths")
    if isinstance(depths, list) and tuple(depths) not in BLOCKS_PER_STAGE.values():
        raise UserError(
            f"{where} describes a ResNet of {shown(depths)} blocks", hint=f"known depths are {sorted(BLOCKS_PER_STAGE)}"
        )
    strides = config.get("downsample_in_bottleneck", False)
    facts = [KnownFacts(str(where), stride_in_1x1=strides is True, norm_eps=1e-5)]
    return facts + _processor_facts(path)


def _processor_facts(path: Path) -> list[KnownFacts]:
    """Pixels become ``(pixel * rescale_factor - image_mean) / image_std``; each step can be switched off."""
    config = json_beside(path, _PREPROCESSOR)
    if not {"image_processor_type", "feature_extractor_type"} & set(config) or config.get("do_flip_channel_order"):
        return []
    factor = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    mean: Triple | None = (0.0, 0.0, 0.0)
    std: Triple | None = (1.0, 1.0, 1.0)
    if config.get("do_normalize", True):
        mean, std = three_numbers(config.get("image_mean")), three_numbers(config.get("image_std"))
    if type(factor) not in (int, float) or factor <= 0 or mean is None or std is None or min(std) <= 0:
        return []
    words = str(path.parent / _PREPROCESSOR)
    return [KnownFacts(words, scaled(mean, 1 / factor), scaled(std, 1 / factor), "RGB")]


def open_clip_facts(path: Path) -> list[KnownFacts]:
    """Facts of the ``open_clip_config.json`` beside weights; its numbers are of pixels in 0..1, RGB."""
    config = json_beside(path, _OPEN_CLIP).get("preprocess_cfg")
    config = config if isinstance(config, dict) else {}
    mean, std = three_numbers(config.get("mean")), three_numbers(config.get("std"))
    if mean is None or std is None or min(std) <= 0:
        return []
    return [KnownFacts(str(path.parent / _OPEN_CLIP), scaled(mean), scaled(std), "RGB")]
