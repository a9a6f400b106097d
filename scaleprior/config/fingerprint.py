"""What of a config enters the fingerprints of pretraining runs, fine-tuning runs and cells of studies.

A key enters where its row in the table says that it changes the result. What a key only points to (``by_content``) is
left out: whoever makes the fingerprint adds that of what lies there. A key that came after version 1 enters only where
it is not at its default and its part is not off, so that a new key changes no fingerprint. Keys that have no row (an
engine's own, such as the rest of Detectron2's) always enter.

The rest of this file is history: what version 1 of the fingerprints holds although the table would leave it out. It
stays as it was, so that the runs and the cells of then are still found.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from scaleprior.config.batch import settled
from scaleprior.config.dotted import flat_config
from scaleprior.config.keys.key import FINETUNE, PRETRAIN, Key
from scaleprior.config.keys.table import DETECTION_KEYS, all_keys, does_nothing, find_key

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["cell_settings", "recipe_settings", "training_settings"]

# Results on another device differ in their last bits, but a run may be resumed there.
_RESUMABLE = ("MODEL.DEVICE",)


@dataclass(frozen=True)
class _Frozen:
    """How a key that does not count stands in every fingerprint of version 1."""

    value: Any
    explicit: bool = False


# Version 1 of the cells' fingerprints took these for determining. Their values are those of the shipped quickstart.
_FROZEN: dict[str, dict[str, _Frozen]] = {
    "pretrain": {
        "MODEL.WEIGHTS": _Frozen(""),
        "DATALOADER.NUM_WORKERS": _Frozen(4),
        "PRETRAIN.HELD_OUT.CORPUS": _Frozen(""),
        "PRETRAIN.LOADER.MAX_UNREADABLE": _Frozen(0.05),
    },
    "finetune": {
        "DATALOADER.NUM_WORKERS": _Frozen(0, explicit=True),
        "PRETRAIN.HELD_OUT.CORPUS": _Frozen(""),
        "PRETRAIN.LOADER.MAX_UNREADABLE": _Frozen(0.05),
    },
}
# ... and, of the detector, holds this path: what lies there need not be one of our files and has no fingerprint then.
_BY_PATH = ("MODEL.WEIGHTS",)
# Version 1 of a training run's fingerprint holds these keys of the evaluation.
_OF_EVALUATION = (
    "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "MODEL.RPN.PRE_NMS_TOPK_TEST", "MODEL.RPN.POST_NMS_TOPK_TEST",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "MODEL.ROI_HEADS.NMS_THRESH_TEST",
)  # fmt: skip
# Version 1 of a pretraining run's fingerprint holds this key of the detector ...
_OF_DETECTION = ("MODEL.RESNETS.OUT_FEATURES",)
# ... and not this one, because only ResNets were pretrained: it enters as a later key does ...
_LATER_IN_RECIPES = ("MODEL.TIMM.MODEL",)
# ... nor this one, which never enters: whose trunk it means shows in whether MODEL.TIMM.MODEL is set.
_NOT_IN_RECIPES = ("MODEL.BACKBONE.NAME",)


def recipe_settings(cfg: CfgNode) -> dict[str, Any]:
    """What decides a pretrained backbone, as nested JSON-ready mappings: no paths, no bookkeeping.

    A batch and a rate that wait for the number of processes are those of one.
    """
    recipe: dict[str, Any] = {}
    values = dict(flat_config(settled(cfg)))
    for key in all_keys():
        of_stage = (PRETRAIN in key.changes or key.name in _OF_DETECTION) and key.name not in _NOT_IN_RECIPES
        if of_stage and key.name in _LATER_IN_RECIPES:
            key = replace(key, since=2)
        if of_stage and key.name in values and not _left_out(key, values):
            node = recipe
            *parents, leaf = key.name.split(".")
            for parent in parents:
                node = node.setdefault(parent, {})
            value = values[key.name]
            node[leaf] = list(value) if isinstance(value, tuple) else value
    return recipe


def training_settings(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a trained detector, by dotted names; data and backbone have fingerprints of their own."""
    settings, values = {}, dict(flat_config(cfg))
    for name, value in values.items():
        key = find_key(name)
        if key is None:
            enters = not name.startswith("TEST.")
        else:
            enters = (FINETUNE in key.changes or name in _OF_EVALUATION) and not _left_out(key, values)
        if enters:
            settings[name] = value
    return settings


def cell_settings(cfg: CfgNode, explicit: Collection[str], stage: str) -> dict[str, Any]:
    """What decides a stage of a study's cell: ``config`` by dotted names, and which keys were set on purpose.

    The contract between weights and config treats a key that somebody set in another way than one left alone. A cell
    trains in one process: its batch and its rate are settled for that.

    Args:
        stage: "pretrain", or "finetune" for training and evaluating a detector.
    """
    frozen = _FROZEN[stage]
    config, dropped = {}, set()
    values = dict(flat_config(settled(cfg) if stage == "pretrain" else cfg))
    for name, value in values.items():
        key = find_key(name)
        if name in frozen:
            config[name] = frozen[name].value
        elif key is None or (key.changes and _enters(key, values) and (not key.by_content or name in _BY_PATH)):
            config[name] = value
        elif key.since == 1 or key not in DETECTION_KEYS:  # version 1 knew that one of Detectron2's was set
            dropped.add(name)
    said = {name for name in explicit if name not in dropped and name not in frozen}
    said |= {name for name, past in frozen.items() if past.explicit and name in config}
    return {"config": config, "explicit": sorted(said)}


def _left_out(key: Key, values: Mapping[str, Any]) -> bool:
    """Of the fingerprint of a run."""
    return key.by_content or key.name in _RESUMABLE or not _enters(key, values)


def _enters(key: Key, values: Mapping[str, Any]) -> bool:
    """Whether a key was there in version 1, or does something now.

    On a config of Detectron2's own, which has keys without a row, all of its keys were there.
    """
    if key.since == 1 or (key in DETECTION_KEYS and any(find_key(name) is None for name in values)):
        return True
    return values[key.name] != key.default and not does_nothing(key, values)
