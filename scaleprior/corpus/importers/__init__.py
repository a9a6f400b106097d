"""Importers: where images and labels lie, as a stream of rows for the index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from scaleprior.corpus.importers.detect_source import open_source as open_source
    from scaleprior.corpus.importers.doubts import Answer as Answer, Doubt as Doubt
    from scaleprior.corpus.importers.source import Source as Source

lazy_exports(__name__)
