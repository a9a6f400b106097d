"""The synthetic world: a corpus and a detection set whose images show the same procedural objects."""

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from scaleprior.corpus.world.spec import WorldSpec as WorldSpec
    from scaleprior.corpus.world.world import World as World, contact_sheet as contact_sheet

lazy_exports(__name__)
