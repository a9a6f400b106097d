"""From any known file to a canonical one in one walk over the numbers, without a copy of them in memory."""

from __future__ import annotations

from pathlib import Path

from scaleprior.backbones.card import Card
from scaleprior.backbones.readers.facts import ReadOptions
from scaleprior.backbones.readers.limits import LIMITS, Limits
from scaleprior.backbones.readers.read import find_backbone, refuse_nonfinite
from scaleprior.backbones.readers.report import Report
from scaleprior.backbones.writing import write_tensors
from scaleprior.files import atomic_path

__all__ = ["convert_backbone"]


def convert_backbone(
    source: str | Path, out: str | Path, options: ReadOptions | None = None, *, limits: Limits = LIMITS
) -> tuple[Card, Report]:
    """Write what ``read_backbone(source)`` gives to ``out``, bit for bit as ``save_backbone`` does, and as atomically.

    Returns:
        The card as written, and what became of every tensor of ``source``.

    Raises:
        UserError, RefusedFileError: as ``read_backbone``; then ``out`` is left as it was.
        FailureError: the disk is full, the folder read-only.
    """
    options = options or ReadOptions()
    found = find_backbone(source, options, limits=limits)
    with atomic_path(out) as temporary:
        card, nonfinite = write_tensors(temporary, found.tensors, found.card)
        refuse_nonfinite(nonfinite, found, options)
    return card, found.report
