"""Where facts about foreign weights come from: one module for each kind of place."""

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from scaleprior.backbones.readers.sources.all_sources import known_facts as known_facts

lazy_exports(__name__)
