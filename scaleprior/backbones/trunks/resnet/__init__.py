"""ResNets: their spec, names, layouts and modules, and the family that answers for them."""

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from scaleprior.backbones.trunks.resnet.build import build_resnet as build_resnet, freeze_at as freeze_at
    from scaleprior.backbones.trunks.resnet.family import ResNets as ResNets
    from scaleprior.backbones.trunks.resnet.names import (
        from_detectron2 as from_detectron2,
        names_and_shapes as names_and_shapes,
        to_detectron2 as to_detectron2,
    )
    from scaleprior.backbones.trunks.resnet.published import MSRA as MSRA
    from scaleprior.backbones.trunks.resnet.spec import (
        BLOCKS_PER_STAGE as BLOCKS_PER_STAGE,
        NORMS as NORMS,
        ResNetSpec as ResNetSpec,
    )

lazy_exports(__name__)
