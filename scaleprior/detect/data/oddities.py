"""Images that are out of order without harm to their pixels: read, told of once a kind, and counted."""

from __future__ import annotations

import logging
from functools import partial
from threading import Lock

from scaleprior.corpus.images import WarnFn

__all__ = ["Oddities"]

logger = logging.getLogger(__name__)


class Oddities:
    """Logs the first image of each kind when it is read, and how many there were in the end; safe between threads.

    Args:
        source: the annotations' path.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._names: dict[str, set[str]] = {}
        self._told: dict[str, int] = {}
        self._lock = Lock()

    def of(self, name: str) -> WarnFn:
        """What ``images.decode`` is to call for the image ``name``."""
        return partial(self._add, name)

    def counts(self) -> dict[str, int]:
        """Images by kind, each image once however often it was read."""
        return {kind: len(names) for kind, names in self._names.items()}

    def report(self) -> None:
        """Log the counts that have grown beyond what was told."""
        for kind, count in self.counts().items():
            if count > self._told[kind]:
                logger.warning("%s: %d images in all have %s; they were read", self._source, count, kind)
                self._told[kind] = count

    def _add(self, name: str, kind: str) -> None:
        with self._lock:
            first = kind not in self._names
            self._names.setdefault(kind, set()).add(name)
            self._told.setdefault(kind, 1)
        if first:
            logger.warning("%s: image %s has %s; it is read, as others like it are", self._source, name, kind)
