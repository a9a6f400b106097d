"""Backbones for others: ``.pkl`` that stock Detectron2 loads, ``.pth`` that torchvision and timm load."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from scaleprior.backbones.card import Card
from scaleprior.errors import UserError
from scaleprior.files import atomic_path
from scaleprior.wording import parameter

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FORMATS", "export_backbone", "export_format"]

FORMATS = {"detectron2": ".pkl", "torchvision": ".pth"}
"""Format -> the extension its readers know it by."""


def export_format(path: str | Path, kind: str | None = None) -> str:
    """The format that a file of this name will be.

    Args:
        kind: the format that is wanted.

    Raises:
        UserError: an extension of none, or of another than the wanted; no such format.
    """
    if kind is not None:
        if kind not in FORMATS or Path(path).suffix != FORMATS[kind]:
            wanted = FORMATS.get(kind)
            raise UserError(
                f"{parameter('kind', option='format')} is {kind!r} for {path}",
                hint=f"take {' or '.join(FORMATS)}" if wanted is None else f"name it *{wanted}",
            )
        return kind
    for name, extension in FORMATS.items():
        if Path(path).suffix == extension:
            return name
    raise UserError(
        f"cannot tell the format of {path}",
        hint="end its name with " + " or ".join(f"{extension} ({name})" for name, extension in FORMATS.items()),
    )


def export_backbone(tensors: Mapping[str, Tensor], card: Card, path: str | Path, *, kind: str | None = None) -> None:
    """Write canonical ``tensors`` in another program's form, atomically.

    "detectron2": ``{"model": {name: array}, "__author__": "ScalePrior", "matching_heuristics": True}`` and the card
    under a key that Detectron2 passes over. With the heuristics one file fills C4 (where res5 lives in the heads) and
    FPN. "torchvision": a state dict without classifier; load it with ``strict=False``.

    Args:
        kind: a key of ``FORMATS`` (default: by the extension).

    Raises:
        UserError: that program has no place for such a trunk.
        FailureError: the disk is full, the folder read-only.
    """
    kind = export_format(path, kind)
    state = card.arch.family.exported(kind, tensors, card.arch, card.name)
    if kind == "detectron2":
        _detectron2(state, card, path)
    else:
        _torchvision(state, path)


def _detectron2(tensors: Mapping[str, Tensor], card: Card, path: str | Path) -> None:
    from scaleprior.backbones.readers.assemble import CARD_IN_PICKLE

    content = {
        "model": {name: tensor.numpy() for name, tensor in tensors.items()},
        "__author__": "ScalePrior",
        "matching_heuristics": True,
        CARD_IN_PICKLE: card.to_json(),
    }
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        # Protocol 4: arrays larger than 64 KiB are written from where they lie, not copied first.
        pickle.dump(content, file, protocol=4)


def _torchvision(state: dict[str, Tensor], path: str | Path) -> None:
    import torch

    with atomic_path(path) as temporary:
        torch.save(state, temporary)
