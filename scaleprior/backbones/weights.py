"""Canonical backbone files: ``.safetensors`` with Detectron2's parameter names, and the card in the header.

Trunks that Detectron2's ResNet cannot hold keep the names that their family gives them: timm's, as a rule.

A file is 8 bytes (header length, little endian), a JSON header, and raw tensors; nothing in it can execute.
Names carry no prefix: ``stem.conv1.weight``, ``res2.0.conv1.norm.bias``, ...
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scaleprior.backbones.card import CARD_KEY, Card
from scaleprior.backbones.readers.limits import RefusedFileError
from scaleprior.backbones.readers.safetensors_files import metadata_of, read_header
from scaleprior.backbones.trunks.family import TrunkSpec
from scaleprior.errors import UserError
from scaleprior.files import write_tensors
from scaleprior.wording import one_line

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

__all__ = ["has_card", "load_canonical", "read_card", "save_backbone", "tensors_sha256"]

_SCHEME = b"scaleprior tensors 2\0"  # what the hash of hashes begins with


def save_backbone(path: str | Path, state_d2: Mapping[str, Tensor], card: Card) -> Card:
    """Write tensors and card atomically.

    Args:
        state_d2: tensors in Detectron2's names, complete for ``card.arch``.

    Returns:
        The card as written, with ``tensors_sha256`` filled in.

    Raises:
        UserError: names or shapes are not those of ``card.arch``.
        FailureError: the disk is full, the folder read-only.
    """
    _check_against(card.arch, {n: tuple(t.shape) for n, t in state_d2.items()}, str(path))
    tensors: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in state_d2.items():
        tensor = tensor.detach().cpu().contiguous()
        # Two names of one tensor become two tensors: safetensors has no way to say that they are one.
        tensors[name] = tensor.clone() if tensor.data_ptr() in places else tensor
        places.add(tensor.data_ptr())
    card = replace(card, tensors_sha256=tensors_sha256(tensors))
    write_tensors(path, tensors, {CARD_KEY: card.to_json()})
    return card


def has_card(path: str | Path) -> bool:
    """Whether this is a backbone file with a card; reads the header only. A file that is not there has none."""
    try:
        return CARD_KEY in _metadata(Path(path))
    except UserError:
        return False


def read_card(path: str | Path) -> Card:
    """The card alone: reads the header, never the weights, and does not import torch.

    Raises:
        UserError: no such file, not a safetensors file, or one without a card.
    """
    text = _metadata(Path(path)).get(CARD_KEY)
    if text is None:
        raise UserError(f"{path} has no ScalePrior card", hint="give a backbone file that scaleprior wrote")
    return Card.from_json(text, source=str(path))


def load_canonical(path: str | Path) -> tuple[dict[str, Tensor], Card]:
    """Tensors in Detectron2's names, on the CPU, and their card.

    Raises:
        UserError: as :func:`read_card`; also names or shapes that are not those of the card's architecture, and
            tensors whose hash is not the one recorded.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    card = read_card(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as e:
        raise UserError(
            f"weights {path} cannot be read: {one_line(e)}", hint="the file is damaged; get it again"
        ) from e
    _check_against(card.arch, {n: tuple(t.shape) for n, t in tensors.items()}, str(path))
    recorded = card.tensors_sha256
    if recorded != tensors_sha256(tensors) and recorded != _one_run_sha256(tensors):
        raise UserError(f"weights {path} differ from the hash in their card", hint="the file is damaged; get it again")
    return tensors, card


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over name, type, shape and SHA-256 of the bytes of every tensor, in the order of names."""
    digest = hashlib.sha256(_SCHEME)
    for name in sorted(tensors):
        digest.update(_caption(name, tensors[name]) + hashlib.sha256(_raw(tensors[name])).digest())
    return digest.hexdigest()


def _one_run_sha256(tensors: Mapping[str, Tensor]) -> str:
    """How cards were filled at first: one hash over the bytes of all tensors; their files stay readable."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(_caption(name, tensors[name]))
        digest.update(_raw(tensors[name]))
    return digest.hexdigest()


def _caption(name: str, tensor: Tensor) -> bytes:
    return f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode()


def _raw(tensor: Tensor) -> np.ndarray:
    """The tensor's bytes in row-major order, uint8 [N]; no copy if it lies on the CPU without gaps."""
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _metadata(path: Path) -> dict[str, str]:
    """Texts in a file's header."""
    try:
        return metadata_of(read_header(path))
    except OSError as e:
        raise UserError(f"weights {path} cannot be read: {e.strerror or e}", hint="check the file") from e
    except RefusedFileError as e:
        raise UserError(
            f"weights {path} cannot be read: not a safetensors file, or a damaged one ({e.reason})",
            hint="give a .safetensors backbone",
        ) from e


def _check_against(spec: TrunkSpec, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    from scaleprior.backbones.trunks.trunk import canonical_shapes

    expected = canonical_shapes(spec)
    missing, unexpected = sorted(set(expected) - set(shapes)), sorted(set(shapes) - set(expected))
    differing = [
        f"{name} {shapes[name]} instead of {shape}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    if missing or unexpected or differing:
        raise UserError(
            f"{where}: tensors are not those of {spec.name}: {len(missing)} missing{_first(missing)}, "
            f"{len(unexpected)} unexpected{_first(unexpected)}, {len(differing)} of another shape{_first(differing)}",
            hint="these are weights of another architecture; correct the architecture or take other weights",
        )


def _first(names: list[str]) -> str:
    return f" (first: {names[0]})" if names else ""
