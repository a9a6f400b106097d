"""From any known file to a canonical one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scaleprior.backbones.card import Card
from scaleprior.backbones.readers.facts import ReadOptions
from scaleprior.backbones.readers.limits import LIMITS, Limits
from scaleprior.backbones.readers.read import read_backbone
from scaleprior.backbones.readers.report import Report
from scaleprior.backbones.trunks.published import KnownFacts
from scaleprior.backbones.weights import save_backbone

__all__ = ["convert_backbone"]


def convert_backbone(
    source: str | Path,
    out: str | Path,
    options: ReadOptions | None = None,
    *,
    known: Sequence[KnownFacts] = (),
    limits: Limits = LIMITS,
) -> tuple[Card, Report]:
    """Write what ``read_backbone(source)`` gives to ``out``, as ``save_backbone`` does.

    Args:
        known: as for ``read_backbone``.

    Returns:
        The card as written, and what became of every tensor of ``source``.

    Raises:
        UserError, RefusedFileError: as ``read_backbone``; then ``out`` is left as it was.
        FailureError: the disk is full, the folder read-only.
    """
    reading = read_backbone(source, options, known=known, limits=limits)
    return save_backbone(out, reading.tensors, reading.card), reading.report
