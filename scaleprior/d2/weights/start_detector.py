"""Fine-tuning from a whole detector, as Detectron2's tutorials do: asked for by SCALEPRIOR.START, and on record.

Such a run says nothing about pretraining data: nobody counts the images of a detector's backbone, and the detector has
seen others since. Its row of results therefore has no number of images, and studies do not take it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from scaleprior.backbones.addresses import address_of, text_of
from scaleprior.config import LoadedConfig
from scaleprior.d2.weights.matching import COUNTER
from scaleprior.detect.plan import follow_training
from scaleprior.detect.trained import TrainedDetector
from scaleprior.errors import UserError
from scaleprior.files import file_sha256

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["follow_detector", "require_weights", "starting_detector", "tell_of_fresh"]

logger = logging.getLogger("detectron2.scaleprior")  # below Detectron2's own, which programs of users have set up

# What a trunk's weights want to see and how they are built; no name and no shape shows a wrong one.
_KEPT = ("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.NORM_EPS", "MODEL.RESNETS.STRIDE_IN_1X1")
_TRUNK = ("backbone.", "roi_heads.res5.")


def require_weights(weights: str) -> None:
    """Raise UserError where there is no detector to start from: weights at random are no such start."""
    if not weights:
        raise UserError(
            "MODEL.WEIGHTS is empty, and SCALEPRIOR.START is 'detector'",
            hint="name the detector there, or leave SCALEPRIOR.START out",
        )


def starting_detector(weights: str | Path, file: Path) -> dict[str, str]:
    """What the record says of the detector that a run starts from: its name, and the hash of its file."""
    text = text_of(weights)
    return {"detector": text if address_of(text) is not None else file.name, "sha256": file_sha256(file)}


def follow_detector(
    loaded: LoadedConfig, weights: str | Path, before: TrainedDetector | None, current: Mapping[str, Any]
) -> CfgNode:
    """The config with what the detector's trunk wants, where the detector says it and nobody set it.

    Args:
        before: what the detector says of its training; None where it is not ScalePrior's.
        current: the keys that weights depend on, in JSON's types.

    Raises:
        UserError: a key that was set contradicts the detector.
    """
    if before is None:
        logger.warning(
            "could not check %s: detector %s says nothing of them, and they are taken as the config has them",
            ", ".join(_KEPT),
            weights,
        )
        return loaded.cfg
    return follow_training(loaded, {key: before.config[key] for key in _KEPT if key in before.config}, current)


def tell_of_fresh(model: nn.Module, missing: Sequence[str], weights: str) -> None:
    """Say which tensors of a model its starting detector did not fill, as those of another number of classes.

    Args:
        missing: their names: not in the file, or of another shape there.

    Raises:
        UserError: the trunk or its pyramid are not complete: then this is no start from that detector.
    """
    fresh = [name for name in missing if not name.endswith(COUNTER)]
    torn = [name for name in fresh if name.startswith(_TRUNK)]
    if torn:
        raise UserError(
            f"detector {weights} does not fit: it does not fill {len(torn)} tensors of the model's trunk, first: "
            f"{torn[0]}",
            hint="start with the config that the detector was trained with, and change its heads alone",
        )
    logger.info(
        "detector %s fills %d of the model's %d tensors; %d start fresh: %s",
        weights,
        len(model.state_dict()) - len(fresh),
        len(model.state_dict()),
        len(fresh),
        ", ".join(fresh) or "none",
    )
