"""What tells two results apart that a comparison must not mix: the detector, its fine-tuning, the backbone's ladder.

Kept free of what no comparison is about or what a comparison varies: the trunk, its weights and pixels, the seed, where
data lie. Two engines say the same of the same config.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scaleprior.backbones.card import UNKNOWN, Card
from scaleprior.backbones.trunks.selection import TIMM_BUILDERS
from scaleprior.backbones.zoo import load_catalogue
from scaleprior.config.dotted import flat_config, get_key
from scaleprior.config.fingerprint import training_settings
from scaleprior.config.keys.table import find_key
from scaleprior.config.load import detectron2_defaults
from scaleprior.errors import UserError
from scaleprior.training.extension import Extension

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["TUNING", "detector_words", "ladder_of", "settings_of_test", "tuning_of"]

# Column -> the key that it shows.
_SHOWN = {
    "batch_size": "SOLVER.IMS_PER_BATCH",
    "base_lr": "SOLVER.BASE_LR",
    "freeze_at": "MODEL.BACKBONE.FREEZE_AT",
    "norm": "MODEL.RESNETS.NORM",
}
TUNING = (*_SHOWN, "trained_on", "settings", "detector_settings")
"""What :func:`tuning_of` says of a fine-tuning run, in the order of the columns."""

# The trunk's keys: ``arch`` and the backbone's card say them. Deformable or dilated convolutions are the detector's.
_OF_THE_TRUNK = (
    "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.FORMAT", "MODEL.NORM_EPS", "MODEL.TIMM.MODEL", "MODEL.WEIGHTS",
    "MODEL.RESNETS.DEPTH", "MODEL.RESNETS.NUM_GROUPS", "MODEL.RESNETS.WIDTH_PER_GROUP", "MODEL.RESNETS.STRIDE_IN_1X1",
    "MODEL.RESNETS.STEM_OUT_CHANNELS", "MODEL.RESNETS.RES2_OUT_CHANNELS",
)  # fmt: skip
# Keys that ``detector`` and ``max_iter`` say.
_SAID = (
    "MODEL.META_ARCHITECTURE", "MODEL.BACKBONE.NAME", "MODEL.ROI_HEADS.NAME", "MODEL.PROPOSAL_GENERATOR.NAME",
    "MODEL.MASK_ON", "MODEL.KEYPOINT_ON", "MODEL.LOAD_PROPOSALS", "SOLVER.MAX_ITER",
)  # fmt: skip
# Bookkeeping of Detectron2's that changes no result; the number of GPUs has become steps and rates before a run starts.
_BOOKKEEPING = ("SEED", "OUTPUT_DIR", "CUDNN_BENCHMARK", "VIS_PERIOD", "SOLVER.REFERENCE_WORLD_SIZE")
_NOT_OF_A_TEST = ("TEST.EVAL_PERIOD", "TEST.EXPECTED_RESULTS", "TEST.PRECISE_BN.ENABLED", "TEST.PRECISE_BN.NUM_ITER")
_PYRAMIDS = {timm: resnet for resnet, timm in TIMM_BUILDERS.items()}


def tuning_of(cfg: CfgNode, history: Sequence[Extension] = ()) -> dict[str, Any]:
    """What identifies a fine-tuning run beside its detector and its steps; the keys are :data:`TUNING`.

    ``settings`` is a hash of every other setting that decides the weights and is not at Detectron2's default, but for
    those under MODEL, which follow from the kind of detector for the most part: ``detector_settings`` is theirs.

    Args:
        cfg: as the run has it: the backbone's card applied.
        history: of a run that was extended, which is not compared with one that had its schedule from the start.
    """
    apart = {*_OF_THE_TRUNK, *_SAID, *_BOOKKEEPING, *_SHOWN.values()}
    settings = {
        name: value
        for name, value in training_settings(cfg).items()
        if name not in apart and not _of_the_data(name) and not _of_a_test(name) and not _is_usual(name, value)
    }
    if history:
        settings["extended"] = [[each.steps, dict(each.schedule)] for each in history]
    return {
        **{column: get_key(cfg, key) for column, key in _SHOWN.items()},
        "trained_on": "+".join(cfg.DATASETS.TRAIN),
        "settings": _short_hash({name: v for name, v in settings.items() if not name.startswith("MODEL.")}),
        "detector_settings": _short_hash({name: v for name, v in settings.items() if name.startswith("MODEL.")}),
    }


def settings_of_test(cfg: CfgNode, *, augmented: bool = False) -> str:
    """A hash of what decides how a trained detector is measured: sizes, thresholds, numbers of detections."""
    return _short_hash(
        {
            name: value
            for name, value in flat_config(cfg)
            if _of_a_test(name)
            and (augmented or not name.startswith("TEST.AUG."))
            and name not in _NOT_OF_A_TEST
            and not _of_the_data(name)
            and not _is_usual(name, value)
        }
    )


def detector_words(cfg: CfgNode) -> str:
    """The backbone's builder, and what tells other detectors on it from Faster R-CNN.

    ``build_resnet_backbone`` is C4, ``build_resnet_fpn_backbone`` FPN, also on a trunk of another family.
    """
    model = cfg.MODEL
    builder: str = model.BACKBONE.NAME
    builder = _PYRAMIDS.get(builder, builder)
    parts, architecture = [builder], model.get("META_ARCHITECTURE", "GeneralizedRCNN")  # ours has no other
    if architecture != "GeneralizedRCNN":
        parts.append(architecture)
    if architecture in ("GeneralizedRCNN", "PanopticFPN"):
        # Standard heads on a trunk without a pyramid are those of DC5.
        usual = ("Res5ROIHeads",) if builder == "build_resnet_backbone" else ("Res5ROIHeads", "StandardROIHeads")
        parts += [model.ROI_HEADS.NAME] if model.ROI_HEADS.NAME not in usual else []
        proposals = model.PROPOSAL_GENERATOR.get("NAME", "RPN")
        parts += [proposals] if proposals != "RPN" else []
    parts += ["given proposals"] if model.get("LOAD_PROPOSALS", False) else []
    parts += ["masks"] if model.get("MASK_ON", False) else []
    return "+".join([*parts, *(["keypoints"] if model.get("KEYPOINT_ON", False) else [])])


def ladder_of(card: Card | None) -> dict[str, str]:
    """The ladder that a backbone is a rung of: ``corpus``, ``recipe`` and ``comparable``; "" is unknown.

    Backbones of one corpus and one recipe differ in their number of images alone. One that ScalePrior pretrained is
    comparable with those. What the zoo has of other people's is not, unless its entry's ``comparable`` begins with
    "yes": no two sizes there share images, labels and recipe.
    """
    if card is None:
        return {"corpus": "", "recipe": "", "comparable": ""}
    corpus = card.corpus.get("name", UNKNOWN)
    ours = card.steps is not None and "PRETRAIN" in card.recipe
    return {
        "corpus": "" if corpus == UNKNOWN else corpus,
        "recipe": _recipe(card) if ours else "",
        "comparable": "yes" if ours else _comparable(card),
    }


def _recipe(card: Card) -> str:
    """The recipe's name, and a hash of what of it a ladder keeps: not the trunk, the fraction and the seeds."""
    stage = {key: value for key, value in card.recipe["PRETRAIN"].items() if key not in ("FRACTION", "HELD_OUT")}
    stage["NOISE"] = {key: value for key, value in stage.get("NOISE", {}).items() if key != "SEED"}
    name = stage.pop("RECIPE", "custom")
    pixels = [card.pixel_mean, card.pixel_std, card.channel_order]
    # A parent of each architecture and seed is one start: names of ours hold both.
    parent = "" if card.parent is None else re.sub(r"_seed\d+$", "", card.parent.get("name", UNKNOWN))
    return f"{name}-{_short_hash([stage, pixels, parent.replace(card.arch.name, '')])}"


def _comparable(card: Card) -> str:
    try:
        entry = load_catalogue().entries.get(card.name)
    except UserError:  # a damaged catalogue of the user's must not cost the row of a run
        return ""
    if entry is None or entry.kind != "public" or entry.arch != card.arch.name:
        return ""
    said = re.match(r"(yes|no)\b", entry.comparable, re.IGNORECASE)
    return said[1].lower() if said else "no"


def _of_the_data(name: str) -> bool:
    """Where data lie, what they are called, and what follows from them."""
    return name.startswith(("DATASETS.", "SCALEPRIOR.DATASETS")) or name.endswith(".NUM_CLASSES")


def _of_a_test(name: str) -> bool:
    return name.startswith("TEST.") or "TEST" in name.rsplit(".", 1)[-1].split("_")


def _is_usual(name: str, value: Any) -> bool:
    """At its default, which is Detectron2's where the key is."""
    defaults, key = detectron2_defaults(), find_key(name)
    plain = json.loads(json.dumps(value, default=str))
    if name in defaults:
        return plain == defaults[name]
    return key is not None and plain == json.loads(json.dumps(key.default, default=str))


def _short_hash(value: Mapping[str, Any] | list[Any]) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
