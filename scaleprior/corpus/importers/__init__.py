"""Importers: where images and labels lie, as a stream of rows for the index."""

from __future__ import annotations

from scaleprior._lazy import lazy_exports

__getattr__, __all__ = lazy_exports(__name__, {"Source": "source", "open_source": "detect_source"})
