"""Weights in and out of a detector: backbones to start from, and files of trained detectors.

A model file is a ``.safetensors`` in Detectron2's parameter names; its header's ``scaleprior.detector`` says, as JSON,
what the weights need: classes and the config keys that give the numbers their meaning.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scaleprior.backbones.weights import load_canonical
from scaleprior.config.dotted import get_key
from scaleprior.config.keys import DETECTION_KEYS, OWN_KEYS
from scaleprior.config.keys.table import does_nothing
from scaleprior.detect.faster_rcnn.model import Detector
from scaleprior.detect.faster_rcnn.parameter_names import detectron2_names, trunk_names
from scaleprior.detect.faster_rcnn.parts.backbone import PyramidBackbone
from scaleprior.detect.trained import TrainedDetector
from scaleprior.errors import UserError
from scaleprior.files import write_tensors
from scaleprior.parsing import is_regular, open_regular, parse_json
from scaleprior.wording import one_line, parameter

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from scaleprior.backbones.card import Card

__all__ = [
    "FIXED_KEYS",
    "LoadReport",
    "fill_backbone",
    "fixed_values",
    "is_model_file",
    "load_model",
    "model_names",
    "read_trained",
    "save_model",
    "start_from_backbone",
]

logger = logging.getLogger(__name__)

_INFO_KEY = "scaleprior.detector"
_SCHEMA = 2

_FIXED = tuple(key for key in (*DETECTION_KEYS, *OWN_KEYS) if key.fixed)
FIXED_KEYS = tuple(key.name for key in _FIXED)
"""What a trained detector's weights depend on: evaluating them under another value would be wrong in silence."""


@dataclass(frozen=True)
class LoadReport:
    """What became of a backbone file's tensors; all names are Detectron2's.

    Attributes:
        matched: tensors of the detector that were filled.
        missing: tensors of the detector that keep their fresh weights (proposal network, heads, pyramid).
        unexpected: tensors of the file that have no place in the detector (stages it does not use).
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} tensors matched"]
        for words, names in (("new layers' tensors", self.missing), ("unused in the file", self.unexpected)):
            some = f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""
            parts.append(f"{len(names)} {words}{some}")
        return ", ".join(parts)


def model_names(model: Detector) -> dict[str, str]:
    """Our names of the model's tensors -> Detectron2's."""
    backbone = model.backbone
    pyramid = isinstance(backbone, PyramidBackbone)
    trunk, first = (backbone.bottom_up.trunk, backbone.in_features[0]) if pyramid else (backbone.trunk, "res2")
    return detectron2_names(model.state_dict(), trunk.canonical_names(), int(first[3:]))


def start_from_backbone(model: Detector, path: Path) -> tuple[LoadReport, Card]:
    """Fill ``model``'s trunk (and in C4 the head's res5) from a canonical backbone file.

    Raises:
        UserError: as ``load_canonical`` and :func:`fill_backbone`.
    """
    tensors, card = load_canonical(path)
    return fill_backbone(model, tensors, str(path)), card


def fill_backbone(model: Detector, tensors: Mapping[str, Tensor], source: str) -> LoadReport:
    """Copy ``tensors`` of a canonical file (stem.conv1.weight, res2.0..., or timm's names) into the trunk.

    Raises:
        UserError: nothing matches, a tensor of the trunk is missing, or one has another shape; the model is then
            unchanged.
    """
    names = model_names(model)
    state = model.state_dict()
    ours_of = {theirs: ours for ours, theirs in names.items()}
    wanted = {bare: ours_of[theirs] for bare, theirs in trunk_names(names.values()).items()}
    found = {bare: ours for bare, ours in wanted.items() if bare in tensors}
    absent = [names[wanted[bare]] for bare in wanted if bare not in tensors]
    differing = [
        f"{bare} {tuple(tensors[bare].shape)} instead of {tuple(state[ours].shape)}"
        for bare, ours in found.items()
        if tensors[bare].shape != state[ours].shape
    ]
    hint = "take weights of the architecture that the config describes"
    if not found:
        example = next(iter(tensors), "nothing at all")
        raise UserError(
            f"none of the {len(tensors)} tensors of {source} fits the detector (it has {example})", hint=hint
        )
    if differing:
        raise UserError(f"{source}: {len(differing)} tensors have other shapes, first: {differing[0]}", hint=hint)
    if absent:
        raise UserError(
            f"{source} lacks {len(absent)} of the trunk's {len(wanted)} tensors, first: {absent[0]}", hint=hint
        )
    with torch.no_grad():
        for bare, ours in found.items():
            state[ours].copy_(tensors[bare])
    report = LoadReport(
        matched=tuple(names[ours] for ours in found.values()),
        missing=tuple(theirs for ours, theirs in names.items() if ours not in set(found.values())),
        unexpected=tuple(name for name in tensors if name not in found),
    )
    logger.info("%s: %s", source, report)
    return report


def save_model(path: Path, model: Detector, trained: TrainedDetector) -> None:
    """Write a trained detector atomically."""
    state = model.state_dict()
    tensors = {theirs: state[ours].detach().cpu().contiguous() for ours, theirs in model_names(model).items()}
    write_tensors(path, tensors, {_INFO_KEY: json.dumps({"schema": _SCHEMA, **trained.to_dict()})})


def read_trained(path: Path) -> TrainedDetector:
    """What the header of a model file says; keys that came later than the file are as they were then.

    Raises:
        UserError: no such file, or not a trained detector of this engine.
    """
    from safetensors import SafetensorError, safe_open

    if not os.path.exists(path):
        raise UserError(f"model not found: {path}", hint="give the model.safetensors that training wrote")
    open_regular(path, what="model").close()
    if path.suffix in (".pth", ".pkl"):
        raise UserError(
            f"model {path} is a file of Detectron2's, not of the torchvision engine",
            hint=f"evaluate it with {parameter('engine', 'detectron2')}, or give a model.safetensors",
        )
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_INFO_KEY)
        if text is None:
            raise UserError(
                f"{path} is not a trained detector (perhaps a backbone)",
                hint="give the model.safetensors that `scaleprior detect train` wrote",
            )
    except (SafetensorError, OSError, UnicodeError) as e:
        raise _damaged(path, e) from e
    raw = parse_json(text, where=f"what model {path} says of itself")
    if not isinstance(raw, dict) or raw.get("schema") != _SCHEMA:
        raise UserError(f"{path} was written by another version of ScalePrior", hint="train again")
    trained = TrainedDetector.from_dict(raw, where=str(path))
    return replace(trained, config=_as_trained(trained.config))


def is_model_file(path: Path) -> bool:
    """Whether this is a trained detector of this engine, of whatever version."""
    from safetensors import SafetensorError, safe_open

    if not is_regular(path):
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return _INFO_KEY in (file.metadata() or {})
    except (SafetensorError, OSError, UnicodeError):
        return False


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"model {path} cannot be read: {one_line(error)}", hint="the file is damaged; get it again")


def _as_trained(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that the weights depend on: without those of a part that they do not have."""
    later = {key.name: key.default for key in _FIXED if key.since > 1}
    values = {**json.loads(json.dumps(later)), **config}
    idle = {key.name for key in _FIXED if does_nothing(key, values)}
    return {name: value for name, value in values.items() if name not in idle}


def load_model(path: Path, model: Detector) -> None:
    """Fill every tensor of ``model`` from a model file.

    Raises:
        UserError: a tensor is missing, too many, or of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, UnicodeError) as e:
        raise _damaged(path, e) from e
    names, state = model_names(model), model.state_dict()
    wrong = sorted(set(names.values()) ^ set(tensors)) or [
        theirs for ours, theirs in names.items() if state[ours].shape != tensors[theirs].shape
    ]
    if wrong:
        raise UserError(
            f"model {path} does not fit the config: {len(wrong)} tensors differ, first: {wrong[0]}",
            hint="evaluate with the config it was trained with",
        )
    with torch.no_grad():
        for ours, theirs in names.items():
            state[ours].copy_(tensors[theirs])


def fixed_values(cfg: CfgNode) -> dict[str, Any]:
    """The keys that a trained detector's weights depend on, with their values in JSON's types."""
    return json.loads(json.dumps({key: get_key(cfg, key) for key in FIXED_KEYS}))
