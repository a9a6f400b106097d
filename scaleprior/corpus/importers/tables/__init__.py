"""Tables of labels in the forms that people have them: read, judged, joined by image, matched with the images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from scaleprior.corpus.importers.tables.options import TableOptions as TableOptions
    from scaleprior.corpus.importers.tables.table import LabelTable as LabelTable

lazy_exports(__name__)
