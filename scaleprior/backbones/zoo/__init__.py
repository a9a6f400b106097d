"""The zoo: a catalogue of backbones by name, and the way from ``scaleprior://NAME`` to a verified local file."""

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from scaleprior.backbones.zoo.catalogue import (
        Catalogue as Catalogue,
        load_catalogue as load_catalogue,
    )
    from scaleprior.backbones.zoo.entry import Entry as Entry
    from scaleprior.backbones.zoo.handler import ScalePriorHandler as ScalePriorHandler, register as register
    from scaleprior.backbones.zoo.own import add_backbone as add_backbone, remove_backbone as remove_backbone
    from scaleprior.backbones.zoo.resolve import (
        canonical as canonical,
        fetch as fetch,
        find_weights as find_weights,
        is_uri as is_uri,
        local_path as local_path,
        model_path as model_path,
    )

lazy_exports(__name__)
