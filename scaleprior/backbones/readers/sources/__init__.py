"""Where facts about foreign weights come from: one module for each kind of place."""

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from scaleprior.backbones.readers.sources.all_sources import known_facts as known_facts
    from scaleprior.backbones.readers.sources.architecture import (
        check_stated as check_stated,
        stated_architectures as stated_architectures,
        stated_norm as stated_norm,
    )
    from scaleprior.backbones.readers.sources.telltales import (
        check_telltales as check_telltales,
        doubts as doubts,
    )
    from scaleprior.backbones.readers.sources.variants import refuse_variants as refuse_variants

lazy_exports(__name__)
