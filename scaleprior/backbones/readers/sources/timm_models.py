"""Facts of timm's published models by name, for weights of which somebody says or a place proves that they are one."""

from __future__ import annotations

from dataclasses import replace

from scaleprior.backbones.readers.sources.architecture import timm_norm_eps
from scaleprior.backbones.readers.sources.timm_configs import timm_facts
from scaleprior.backbones.readers.timm_names import published
from scaleprior.backbones.trunks.published import FactKind, KnownFacts

__all__ = ["model_facts"]


def model_facts(name: str, origin: str, kind: FactKind) -> KnownFacts:
    """What timm states of a model, and the eps of its network.

    Args:
        name: with or without tag.
        origin: who says that the weights are that model's, in words; ``kind``: what that is worth.

    Raises:
        UserError: timm has no such model, or not with that tag.
    """
    return replace(timm_facts(published(name), origin), architecture=name, norm_eps=timm_norm_eps(name), kind=kind)
