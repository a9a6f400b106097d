"""From a file's tree to the one trunk in it: where trunks stand among its names, which one is meant, what is left."""

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from scaleprior.backbones.readers.search.candidate import Candidate as Candidate
    from scaleprior.backbones.readers.search.find import find_candidate as find_candidate

lazy_exports(__name__)
