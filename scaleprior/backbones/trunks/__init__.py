"""Families of trunks, each in one file: what they are, how they are built, and how others name their tensors."""

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from scaleprior.backbones.trunks.family import (
        TRUNK_GROUP as TRUNK_GROUP,
        Clues as Clues,
        TimmSpec as TimmSpec,
        TrunkFamily as TrunkFamily,
        TrunkSpec as TrunkSpec,
        families as families,
        get_family as get_family,
        known_models as known_models,
        register_family as register_family,
    )
    from scaleprior.backbones.trunks.layout import Dropped as Dropped, Layout as Layout, Relative as Relative
    from scaleprior.backbones.trunks.model import Model as Model, fitting_norms as fitting_norms
    from scaleprior.backbones.trunks.published import KnownFacts as KnownFacts
    from scaleprior.backbones.trunks.resnet.spec import ResNetSpec as ResNetSpec
    from scaleprior.backbones.trunks.selection import (
        config_eps as config_eps,
        is_timm_config as is_timm_config,
        spec_from_config as spec_from_config,
        spec_from_dict as spec_from_dict,
        spec_of_model as spec_of_model,
    )
    from scaleprior.backbones.trunks.trunk import (
        Trunk as Trunk,
        build_trunk as build_trunk,
        canonical_shapes as canonical_shapes,
        detection_trunk as detection_trunk,
    )

lazy_exports(__name__)
