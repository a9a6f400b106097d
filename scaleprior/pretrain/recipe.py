"""Checks of the ``PRETRAIN.*`` values, and the hash that tells whether two runs are the same run."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Any

from scaleprior.errors import UserError

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["check_config", "config_hash", "recipe_of"]

_CHOICES = {
    "PRETRAIN.AMP": ("off", "bf16"),
    "PRETRAIN.NOISE.KIND": ("uniform", "sibling"),
    "PRETRAIN.INPUT.CROP": ("resize_crop", "random_resized_crop"),
    "PRETRAIN.BUDGET.UNIT": ("epochs", "steps", "images"),
    "PRETRAIN.OPTIMIZER.NAME": ("sgd", "rmsprop", "adamw", "lamb"),
    "PRETRAIN.SCHEDULE.NAME": ("cosine", "exponential", "constant"),
    "PRETRAIN.SCHEDULE.UNIT": ("budget", "epochs", "steps", "images"),
    "INPUT.FORMAT": ("RGB", "BGR"),
}
# dotted key -> (lowest, highest, the lowest itself is legal)
_RANGES = {
    "PRETRAIN.BATCH_SIZE": (1, math.inf, True),
    "PRETRAIN.CHECKPOINT_PERIOD": (0, math.inf, True),
    "PRETRAIN.METRICS_PERIOD": (1, math.inf, True),
    "PRETRAIN.FRACTION.IMAGES": (0, math.inf, True),
    "PRETRAIN.FRACTION.RATIO": (0, 1, True),
    "PRETRAIN.NOISE.RATE": (0, 1, True),
    "PRETRAIN.NOISE.DROP": (0, 1, True),
    "PRETRAIN.NOISE.SEED": (0, 2**63, True),
    "PRETRAIN.HELD_OUT.IMAGES": (0, math.inf, True),
    "PRETRAIN.INPUT.SIZE": (8, 4096, True),
    "PRETRAIN.INPUT.RESIZE": (8, 4096, True),
    "PRETRAIN.INPUT.MIRROR": (0, 1, True),
    "PRETRAIN.LOADER.NUM_WORKERS": (0, 256, True),
    "PRETRAIN.LOADER.CACHE_MB": (0, math.inf, True),
    "PRETRAIN.LOADER.MAX_UNREADABLE": (0, 1, True),
    "PRETRAIN.BUDGET.AMOUNT": (0, math.inf, False),
    "PRETRAIN.HEAD.PRIOR": (0, 1 - 1e-9, True),
    "PRETRAIN.OPTIMIZER.BASE_LR": (0, math.inf, False),
    "PRETRAIN.OPTIMIZER.MOMENTUM": (0, 1 - 1e-9, True),
    "PRETRAIN.OPTIMIZER.WEIGHT_DECAY": (0, math.inf, True),
    "PRETRAIN.OPTIMIZER.WEIGHT_DECAY_NORM": (0, math.inf, True),
    "PRETRAIN.SCHEDULE.WARMUP": (0, math.inf, True),
    "PRETRAIN.SCHEDULE.DECAY_EVERY": (0, math.inf, False),
    "PRETRAIN.SCHEDULE.GAMMA": (0, 1, False),
}
# Detectron2's keys of MODEL.RESNETS for trunks that we do not train, at the defaults that mean a plain ResNet.
_NOT_PLAIN = {
    "DEFORM_ON_PER_STAGE": [False, False, False, False],
    "DEFORM_MODULATED": False,
    "DEFORM_NUM_GROUPS": 1,
    "RES5_DILATION": 1,
}
# Do not change what a run computes, so an interrupted run may go on with other values.
_NEUTRAL = ("CHECKPOINT_PERIOD", "METRICS_PERIOD", "TENSORBOARD", "LOADER", "CORPUS")


def check_config(cfg: CfgNode) -> None:
    """Raises UserError naming the key, its value and what is legal, for every value pretraining cannot take."""
    for key, choices in _CHOICES.items():
        if _get(cfg, key) not in choices:
            raise UserError(f"{key} is {_get(cfg, key)!r}", hint=f"take one of {', '.join(choices)}")
    for key, (low, high, closed) in _RANGES.items():
        value = _get(cfg, key)
        if not (low <= value <= high) or (value == low and not closed) or math.isinf(value):
            bounds = f"{'at least' if closed else 'above'} {low}" + ("" if math.isinf(high) else f", at most {high:g}")
            raise UserError(f"{key} is {value!r}", hint=f"give a number {bounds}")
    for key, low, high in (("PRETRAIN.INPUT.SCALE", 0.0, 1.0), ("PRETRAIN.INPUT.RATIO", 0.0, math.inf)):
        pair = _get(cfg, key)
        if len(pair) != 2 or not low < pair[0] <= pair[1] <= high:
            raise UserError(f"{key} is {pair!r}", hint=f"give (smallest, largest), above {low:g} and at most {high:g}")
    node = cfg.PRETRAIN
    if node.INPUT.RESIZE < node.INPUT.SIZE:
        raise UserError(
            f"PRETRAIN.INPUT.RESIZE is {node.INPUT.RESIZE}, smaller than the crops of SIZE {node.INPUT.SIZE}",
            hint="set RESIZE to SIZE or more",
        )
    if cfg.MODEL.RESNETS.NORM not in ("BN", "GN"):
        raise UserError(
            f"MODEL.RESNETS.NORM is {cfg.MODEL.RESNETS.NORM!r}: pretraining needs a norm that learns",
            hint="set MODEL.RESNETS.NORM to BN or GN, as configs/Pretrain/Base-Pretrain.yaml does",
        )
    for name, plain in _NOT_PLAIN.items():
        value = cfg.MODEL.RESNETS.get(name, plain)
        if value != plain:
            raise UserError(
                f"MODEL.RESNETS.{name} is {value!r}: plain ResNets are pretrained", hint=f"set it to {plain}"
            )
    if node.BATCH_SIZE == 1 and node.INPUT.SIZE <= 32 and cfg.MODEL.RESNETS.NORM == "BN":
        raise UserError(
            "PRETRAIN.BATCH_SIZE 1 with PRETRAIN.INPUT.SIZE up to 32 leaves BN one value per channel",
            hint="enlarge either",
        )
    if not node.CORPUS:
        raise UserError("PRETRAIN.CORPUS is not set", hint="give the index folder: PRETRAIN.CORPUS FOLDER")


def recipe_of(cfg: CfgNode) -> dict[str, Any]:
    """What decides the weights, as nested JSON-ready mappings: the settings without paths and bookkeeping."""
    pretrain = _plain(cfg.PRETRAIN)
    for name in _NEUTRAL:
        pretrain.pop(name)
    pretrain["HELD_OUT"].pop("CORPUS")
    model = {name: _plain(cfg.MODEL[name]) for name in ("PIXEL_MEAN", "PIXEL_STD", "RESNETS")}
    # One run is the same run, whether Detectron2's config describes it or ours.
    for name in _NOT_PLAIN:
        model["RESNETS"].pop(name, None)
    return {
        "PRETRAIN": pretrain,
        "MODEL": model,
        "INPUT": {"FORMAT": cfg.INPUT.FORMAT},
        "SEED": max(cfg.SEED, 0),
    }


def config_hash(cfg: CfgNode, **facts: Any) -> str:
    """SHA-256 (hex) of :func:`recipe_of` and of ``facts`` (fingerprints, number of processes)."""
    text = json.dumps({"recipe": recipe_of(cfg), **facts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _get(cfg: CfgNode, key: str) -> Any:
    node: Any = cfg
    for part in key.split("."):
        node = node[part]
    return node


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
