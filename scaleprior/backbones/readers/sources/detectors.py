"""Facts in the header of a detector that ScalePrior trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from scaleprior.backbones.trunks.family import TrunkFamily, known_models
from scaleprior.backbones.trunks.published import KnownFacts
from scaleprior.errors import UserError

__all__ = ["detector_facts"]


def detector_facts(metadata: Mapping[str, str], where: str) -> KnownFacts | None:
    """Facts in the header of a detector that ScalePrior trained."""
    text = metadata.get("scaleprior.detector")
    if text is None:
        return None
    try:
        config = json.loads(text)["config"]
        eps = config.get("MODEL.NORM_EPS", -1.0)
        return KnownFacts(
            f"the trained detector {where}",
            tuple(config["MODEL.PIXEL_MEAN"]),
            tuple(config["MODEL.PIXEL_STD"]),
            config["INPUT.FORMAT"],
            config["MODEL.RESNETS.STRIDE_IN_1X1"] and config["MODEL.RESNETS.DEPTH"] >= 50,
            norm_eps=_family(config).eps if eps < 0 else eps,
        )
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise UserError(f"{where}: the detector's header cannot be read: {e}", hint="get the file again") from e


def _family(config: Mapping[str, Any]) -> TrunkFamily:
    """Whose trunk a detector has, whose eps it has where the config names none."""
    of_timm = "timm" in config.get("MODEL.BACKBONE.NAME", "")
    return known_models()[str(config["MODEL.TIMM.MODEL"]) if of_timm else "resnet50"]
