"""Backbones for others: ``.pkl`` that stock Detectron2 loads, ``.pth`` that torchvision and timm load."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scaleprior.backbones.card import Card
from scaleprior.backbones.trunks.model import same_eps
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


def export_backbone(
    tensors: Mapping[str, Tensor], card: Card, path: str | Path, *, kind: str | None = None, frozen_norms: bool = False
) -> Card:
    """Write canonical ``tensors`` in another program's form, atomically.

    "detectron2": ``{"model": {name: array}, "__author__": "ScalePrior", "matching_heuristics": True}`` and the card
    under a key that Detectron2 passes over. With the heuristics one file fills C4 (where res5 lives in the heads) and
    FPN. "torchvision": a state dict without classifier; load it with ``strict=False``.

    Args:
        kind: a key of ``FORMATS`` (default: by the extension).
        frozen_norms: the norms will stay frozen, so that a channel may change its gain where only that lets it compute
            the same under those programs' eps.

    Returns:
        What is true of the file: the card with those programs' eps.

    Raises:
        UserError: that program has no place for such a trunk, or no norms that compute what these do.
        FailureError: the disk is full, the folder read-only.
    """
    kind = export_format(path, kind)
    if not same_eps(card.norm_eps, card.arch.family.eps):
        tensors, card = _under_their_eps(tensors, card, frozen=frozen_norms)
    state = card.arch.family.exported(kind, tensors, card.arch, card.name)
    if kind == "detectron2":
        _detectron2(state, card, path)
    else:
        _torchvision(state, path)
    return card


def _under_their_eps(tensors: Mapping[str, Tensor], card: Card, *, frozen: bool) -> tuple[dict[str, Tensor], Card]:
    """The same function with the eps that all of Detectron2's and torchvision's norms of this kind have.

    Raises:
        UserError: there is none.
    """
    import torch

    from scaleprior.backbones.readers.norm_eps import fold_eps, rescale_gains, variances_of
    from scaleprior.backbones.weights import tensors_sha256

    eps, own = card.norm_eps, card.arch.family.eps
    what = f"backbone {card.name} has norms with eps {eps:g}, those of Detectron2 and torchvision have {own:g}"
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    variances = variances_of(arrays)
    if not variances:
        raise UserError(
            f"{what}, and {card.norm} has no variances to take up the difference",
            hint="use the .safetensors itself as MODEL.WEIGHTS, which detectors of scaleprior build with that eps",
        )
    changed = fold_eps(variances, eps, own)
    if changed is None and not frozen:
        raise UserError(
            f"{what}, and some running variances are too small to take up the difference",
            hint=f"{parameter('frozen_norms', True)} puts it into the gains of their channels, which is the same as "
            "long as MODEL.RESNETS.NORM is FrozenBN; or use the .safetensors itself as MODEL.WEIGHTS with scaleprior",
        )
    changed = changed or rescale_gains(arrays, eps, own)
    state = {**tensors, **{name: torch.from_numpy(value) for name, value in changed.items()}}
    return state, replace(card, norm_eps=own, tensors_sha256=tensors_sha256(state))


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
