"""Whose file is this: a public file recognised by the hash that its publisher prints, whatever its name is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from scaleprior.backbones.trunks.family import TrunkSpec
from scaleprior.backbones.trunks.published import KnownFacts
from scaleprior.backbones.zoo.catalogue import load_catalogue
from scaleprior.backbones.zoo.detectors import torchvision_detectors
from scaleprior.backbones.zoo.entry import Entry
from scaleprior.backbones.zoo.hashes import PrintedHash, file_digests
from scaleprior.errors import UserError

__all__ = ["LEAST_BYTES", "identified"]

logger = logging.getLogger(__name__)

LEAST_BYTES = 2 * 11_000_000
"""Of a public file: R-18, the smallest trunk here, has 11.2M numbers, and none is published in less than two bytes
each. Smaller files are nobody's here, and not read for it."""


def identified(path: Path, trunk: TrunkSpec | None = None) -> KnownFacts | None:
    """What its publisher states of the file; None if nobody's printed hash is that of this file.

    Costs one pass over the file's bytes for each algorithm in which the hash of such a trunk is printed: of an R-152's
    240 MB, 0.2 s of CPU time for SHA-256, 0.4 s for MD5. They then are in memory for whoever reads the file.

    Args:
        trunk: what is in it; None = not known yet.

    Raises:
        OSError: it cannot be read.
    """
    if path.stat().st_size < LEAST_BYTES:
        return None
    known = [(entry, name, printed) for entry, name, printed in _printed() if _can_be(entry.trunk, entry.depth, trunk)]
    detectors = list(torchvision_detectors()) if _can_be("resnet", 50, trunk) else []
    algorithms = {printed.algorithm for *_, printed in (*known, *detectors)}
    digests = file_digests(path, algorithms) if algorithms else {}
    for entry, name, printed in known:
        if printed.of(digests):
            whose = f"{entry.publisher}'s {name}" if entry.publisher else f"the file of scaleprior://{entry.name}"
            return entry.facts(f"published for {whose}, which this is by its {printed.name}")
    return next((facts for facts, printed in detectors if printed.of(digests)), None)


def _can_be(family: str, depth: int, trunk: TrunkSpec | None) -> bool:
    return trunk is None or (trunk.family.name, trunk.depth) == (family, depth)


def _printed() -> Iterator[tuple[Entry, str, PrintedHash]]:
    """Every hash in the catalogue, with the entry it belongs to and the name of the file it is of."""
    try:
        entries = load_catalogue()
    except UserError as e:
        logger.warning("public files of your catalogue are not recognised: %s", e)
        entries = load_catalogue(user=False)
    for entry in entries:
        if entry.kind != "public":
            continue
        if entry.printed is not None:
            yield entry, entry.file.rpartition("/")[2], entry.printed
        for copy in entry.also:
            yield entry, copy["url"].rpartition("/")[2], PrintedHash.parse(copy["hash"])
