"""What every engine works out before it trains or evaluates: classes, keys that follow a trained model, warnings."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scaleprior.backbones.contract import is_translation
from scaleprior.config.dotted import get_key, set_key
from scaleprior.config.keys import OWN_KEYS
from scaleprior.config.keys.key import DETECTRON2
from scaleprior.config.keys.table import find_key
from scaleprior.errors import UserError
from scaleprior.wording import either

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from scaleprior.config import LoadedConfig

__all__ = [
    "check_class_count",
    "check_same_classes",
    "follow_training",
    "set_names",
    "starts_from_detector",
    "warn_of_frozen_stages",
]

logger = logging.getLogger(__name__)


def set_names(cfg: CfgNode, key: str) -> tuple[str, ...]:
    """Names of the detection sets under ``key``, "DATASETS.TRAIN" or "DATASETS.TEST".

    Raises:
        UserError: there are none.
    """
    names = tuple(get_key(cfg, key))
    if not names:
        role = "train" if key == "DATASETS.TRAIN" else "val"
        keys = f"{key} \"('NAME',)\" and define NAME in SCALEPRIOR.DATASETS"
        raise UserError(f"{key} is empty", hint=f"give {either(f'{role}: a name or (json, root)', keys)}")
    return names


def check_class_count(loaded: LoadedConfig, key: str, classes: int, source: object) -> None:
    """Hold a number of classes that somebody set against the data's.

    Args:
        key: e.g. "MODEL.ROI_HEADS.NUM_CLASSES". source: of the data, for the message.

    Raises:
        UserError: they differ.
    """
    said = get_key(loaded.cfg, key)
    if key in loaded.explicit and said != classes:
        raise UserError(
            f"{key} is {said} ({loaded.source}), but {source} has {classes} categories",
            hint=f"use {key} {classes}, or leave it out",
        )


def check_same_classes(source: object, found: Sequence[str], trained: Sequence[str]) -> None:
    """Hold the classes of a set to evaluate on against those that a detector was trained on, in their order.

    Raises:
        UserError: they differ.
    """
    if tuple(found) != tuple(trained):
        raise UserError(
            f"{source} has the categories {_listed(found)}, the model was trained on {_listed(trained)}",
            hint="evaluate on a set with the same categories",
        )


def starts_from_detector(cfg: CfgNode) -> bool:
    """Whether ``MODEL.WEIGHTS`` is meant to be a whole detector, by ``SCALEPRIOR.START``.

    Raises:
        UserError: a value that nobody knows.
    """
    key = find_key("SCALEPRIOR.START")
    assert key is not None
    start = cfg.get("SCALEPRIOR", {}).get("START", key.default)
    key.check(start, DETECTRON2)
    return start == "detector"


def warn_of_frozen_stages(cfg: CfgNode) -> None:
    """For a start from random weights: stages that are frozen stay random."""
    if cfg.MODEL.BACKBONE.FREEZE_AT > 0:
        logger.warning(
            "training from random weights with MODEL.BACKBONE.FREEZE_AT %d: frozen stages stay random",
            cfg.MODEL.BACKBONE.FREEZE_AT,
        )


def follow_training(loaded: LoadedConfig, trained: Mapping[str, Any], current: Mapping[str, Any]) -> CfgNode:
    """A frozen copy of the config in which the keys that nobody set are as the model was trained.

    So is a ResNet's pyramid whose trunk a card had exchanged for one of timm's when the model was trained.

    Args:
        trained, current: values in JSON's types of the keys that a model's weights depend on.

    Raises:
        UserError: a key that was set contradicts the model; prints the override lines.
    """
    # A detector that was trained before there was such a key was trained at its default.
    trained = {**{key.name: key.default for key in OWN_KEYS if key.fixed and key.since > 1}, **trained}
    differing = {key: value for key, value in trained.items() if key in current and current[key] != value}
    contradicted = [
        key
        for key, value in differing.items()
        if key in loaded.explicit and not is_translation(key, current[key], value)
    ]
    if contradicted:
        lines = " ".join(f"{key} '{differing[key]}'" for key in contradicted)
        said = ", ".join(f"{key} is {current[key]!r}" for key in contradicted)
        raise UserError(f"config {loaded.source} contradicts the trained model: {said}", hint=f"use {lines}")
    cfg = loaded.cfg.clone()
    cfg.defrost()
    for key, value in differing.items():
        default = get_key(cfg, key)
        set_key(cfg, key, type(default)(value) if isinstance(default, (tuple, list)) else value)
    cfg.freeze()
    return cfg


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''} ({len(names)})"
