"""A reader of pickles and torch files that can run nothing; README.md beside this says what it takes and refuses."""

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from scaleprior.backbones.readers.pickle.load import load_pickle as load_pickle
    from scaleprior.backbones.readers.pickle.placeholders import Placeholder as Placeholder
    from scaleprior.backbones.readers.pickle.plain import Tree as Tree
    from scaleprior.backbones.readers.pickle.torch_files import (
        LEGACY_MAGIC as LEGACY_MAGIC,
        load_torch_legacy as load_torch_legacy,
        load_torch_zip as load_torch_zip,
    )

lazy_exports(__name__)
