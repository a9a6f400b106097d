"""Facts in the header of a detector that ScalePrior trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaleprior.backbones.readers.sources.values import three_numbers
from scaleprior.backbones.trunks.family import TrunkFamily, known_models
from scaleprior.backbones.trunks.published import KnownFacts, Triple
from scaleprior.errors import UserError
from scaleprior.parsing import parse_json
from scaleprior.wording import one_line, shown

__all__ = ["detector_facts"]


def detector_facts(metadata: Mapping[str, str], where: str) -> KnownFacts | None:
    """Facts in the header of a detector that ScalePrior trained."""
    text = metadata.get("scaleprior.detector")
    if text is None:
        return None
    try:
        config = parse_json(text, where=f"{where}: the detector's header")["config"]
        eps = config.get("MODEL.NORM_EPS", -1.0)
        return KnownFacts(
            f"the trained detector {where}",
            _triple(config["MODEL.PIXEL_MEAN"]),
            _triple(config["MODEL.PIXEL_STD"]),
            config["INPUT.FORMAT"],
            bool(config["MODEL.RESNETS.STRIDE_IN_1X1"]) and config["MODEL.RESNETS.DEPTH"] >= 50,
            norm_eps=_family(config).eps if eps < 0 else float(eps),
        )
    except UserError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as e:
        said = one_line(e)
        raise UserError(f"{where}: the detector's header cannot be read: {said}", hint="get the file again") from e


def _triple(value: Any) -> Triple:
    """Raises ValueError: not three numbers."""
    if (numbers := three_numbers(value)) is None:
        raise ValueError(f"{shown(value)} is not three numbers")
    return numbers


def _family(config: Mapping[str, Any]) -> TrunkFamily:
    """Whose trunk a detector has, whose eps it has where the config names none."""
    of_timm = "timm" in config.get("MODEL.BACKBONE.NAME", "")
    return known_models()[str(config["MODEL.TIMM.MODEL"]) if of_timm else "resnet50"]
