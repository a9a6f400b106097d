"""The lines that a detection config needs for given weights, in Detectron2's words. Torch-free."""

from __future__ import annotations

from typing import Any

from scaleprior.backbones.card import Card
from scaleprior.backbones.contract import NORM_EPS, Mismatch, usual_norm
from scaleprior.backbones.trunks.model import same_eps

__all__ = ["config_lines"]


def config_lines(card: Card, weights: str | None = None) -> list[str]:
    """``KEY VALUE`` words for the command line of Detectron2's or of our tools.

    Those of a trunk of timm need ScalePrior's keys and backbones (in Detectron2: ``import scaleprior.d2``), and name
    the backbone of Faster R-CNN on a pyramid. MODEL.NORM_EPS, of norms with another eps than their family's, is a key
    of ScalePrior's, too.

    Args:
        weights: path for MODEL.WEIGHTS.
    """
    keys: dict[str, Any] = {
        **({"MODEL.WEIGHTS": weights} if weights else {}),
        "MODEL.PIXEL_MEAN": list(card.pixel_mean),
        "MODEL.PIXEL_STD": list(card.pixel_std),
        "INPUT.FORMAT": card.channel_order,
    }
    own = card.arch.to_cfg_keys()
    if own is None:
        own = {"MODEL.BACKBONE.NAME": "build_timm_fpn_backbone", "MODEL.TIMM.MODEL": card.arch.timm_model}
    keys |= {**own, "MODEL.RESNETS.NORM": usual_norm(card)}
    if not same_eps(card.norm_eps, card.arch.family.eps):
        keys[NORM_EPS] = card.norm_eps
    return [Mismatch(key, None, value).override for key, value in keys.items()]
