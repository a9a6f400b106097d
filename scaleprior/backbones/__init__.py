"""What we carry: trunks, their weights in canonical names, and the card that says what they are."""

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from scaleprior.backbones.backbone import Backbone as Backbone, load_backbone as load_backbone
    from scaleprior.backbones.card import Card as Card
    from scaleprior.backbones.compare import compare_backbones as compare_backbones
    from scaleprior.backbones.contract import (
        Mismatch as Mismatch,
        apply_card as apply_card,
        check_contract as check_contract,
    )
    from scaleprior.backbones.convert import convert_backbone as convert_backbone
    from scaleprior.backbones.export import export_backbone as export_backbone
    from scaleprior.backbones.readers.facts import ReadOptions as ReadOptions
    from scaleprior.backbones.readers.limits import RefusedFileError as RefusedFileError
    from scaleprior.backbones.readers.read import read_backbone as read_backbone
    from scaleprior.backbones.settings import config_lines as config_lines
    from scaleprior.backbones.trunks.family import (
        TimmSpec as TimmSpec,
        TrunkFamily as TrunkFamily,
        register_family as register_family,
    )
    from scaleprior.backbones.trunks.resnet.build import build_resnet as build_resnet, freeze_at as freeze_at
    from scaleprior.backbones.trunks.resnet.names import (
        from_detectron2 as from_detectron2,
        to_detectron2 as to_detectron2,
    )
    from scaleprior.backbones.trunks.resnet.spec import ResNetSpec as ResNetSpec
    from scaleprior.backbones.trunks.trunk import Trunk as Trunk, build_trunk as build_trunk
    from scaleprior.backbones.weights import (
        read_card as read_card,
        save_backbone as save_backbone,
        tensors_sha256 as tensors_sha256,
    )

lazy_exports(__name__)
