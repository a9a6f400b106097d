"""What may become of a file of others: it is read, or one error for people in one printable line; nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from scaleprior.backbones import Card, ReadOptions, read_backbone
from scaleprior.backbones.readers import LIMITS, Limits, Reading
from scaleprior.backbones.readers.containers import open_container
from scaleprior.backbones.weights import has_card, read_card
from scaleprior.errors import FailureError, UserError

__all__ = ["ended"]

_LONGEST = 4000  # characters of an error


def ended(path: Path, *, limits: Limits = LIMITS) -> str:
    """How all that reads a file of weights ends: the first error's line, or what was read.

    Raises:
        AssertionError: an error that is not one printable line, too long, or without the place.
        Exception: any other than those for people.
    """
    said = []
    for read in (
        lambda: open_container(path, limits=limits).tree,
        lambda: _told(read_backbone(path, limits=limits)),
        lambda: _told(read_backbone(path, ReadOptions(assume="torchvision"), limits=limits)),
        lambda: read_card(path),
        lambda: has_card(path),
    ):
        try:
            _look(read())
        except (UserError, FailureError) as e:
            line = str(e) if type(e).__name__ != "UnknownFactsError" else str(path)  # which is a table
            assert line.isprintable(), line
            assert len(line) < _LONGEST, line
            assert str(path.parent) in line, line
            said.append(line)
    return said[0] if said else "read"


def _told(reading: Reading) -> object:
    """Its tensors, once all that is said of it was said."""
    assert Card.from_json(reading.card.to_json()) == reading.card
    assert reading.report.lines()
    return reading.tensors


def _look(value: object) -> None:
    """Read every number of a tree."""
    if isinstance(value, Tensor):
        value.flatten().tolist()
    elif isinstance(value, np.ndarray):
        value.tobytes()
    elif isinstance(value, dict):
        for part in value.values():
            _look(part)
