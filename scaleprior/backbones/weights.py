"""Canonical backbone files: ``.safetensors`` with Detectron2's parameter names, and the card in the header.

Trunks that Detectron2's ResNet cannot hold keep the names that their family gives them: timm's, as a rule.

A file is 8 bytes (header length, little endian), a JSON header, and raw tensors; nothing in it can execute.
Names carry no prefix: ``stem.conv1.weight``, ``res2.0.conv1.norm.bias``, ...
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.backbones.card import CARD_KEY, Card
from scaleprior.backbones.trunks.family import TrunkSpec
from scaleprior.errors import UserError
from scaleprior.files import atomic_path

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["has_card", "load_backbone", "read_card", "save_backbone"]

_MAX_HEADER = 16 << 20  # bytes; R-152's is 0.1 MB


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
    from scaleprior.backbones.writing import write_tensors

    _check_against(card.arch, {n: tuple(t.shape) for n, t in state_d2.items()}, str(path))
    with atomic_path(path) as temporary:
        card, _ = write_tensors(temporary, state_d2, card)
    return card


def has_card(path: str | Path) -> bool:
    """Whether this is a backbone file with a card; reads the header only. A file that is not there has none."""
    try:
        metadata = _read_header(Path(path)).get("__metadata__")
    except UserError:
        return False
    return isinstance(metadata, dict) and isinstance(metadata.get(CARD_KEY), str)


def read_card(path: str | Path) -> Card:
    """The card alone: reads the header, never the weights, and does not import torch.

    Raises:
        UserError: no such file, not a safetensors file, or one without a card.
    """
    header = _read_header(Path(path))
    metadata = header.get("__metadata__")
    text = metadata.get(CARD_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise UserError(f"{path} has no ScalePrior card", hint="give a backbone file that scaleprior wrote")
    return Card.from_json(text, source=str(path))


def load_backbone(path: str | Path) -> tuple[dict[str, Tensor], Card]:
    """Tensors in Detectron2's names, on the CPU, and their card.

    Raises:
        UserError: as :func:`read_card`; also names or shapes that are not those of the card's architecture, and
            tensors whose hash is not the one recorded.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from scaleprior.backbones.writing import tensors_sha256

    card = read_card(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as e:
        raise UserError(f"weights {path} cannot be read: {e}", hint="the file is damaged; get it again") from e
    _check_against(card.arch, {n: tuple(t.shape) for n, t in tensors.items()}, str(path))
    recorded = card.tensors_sha256
    if recorded != tensors_sha256(tensors) and recorded != _one_run_sha256(tensors):
        raise UserError(f"weights {path} differ from the hash in their card", hint="the file is damaged; get it again")
    return tensors, card


def _one_run_sha256(tensors: Mapping[str, Tensor]) -> str:
    """How cards were filled at first: one hash over the bytes of all tensors; their files stay readable."""
    from scaleprior.backbones.views import Pieces

    digest, pieces = hashlib.sha256(), Pieces()
    for name in sorted(tensors):
        digest.update(f"{name}\0{tensors[name].dtype}\0{tuple(tensors[name].shape)}\0".encode())
        for piece in pieces.of(tensors[name]):
            digest.update(piece)
    return digest.hexdigest()


def _read_header(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            # The length is the file's own claim; it is believed only within the file and a fixed limit.
            if not 2 <= length <= min(size - 8, _MAX_HEADER):
                raise UserError(f"{path} is not a safetensors file", hint="give a .safetensors backbone")
            header = json.loads(file.read(length))
    except FileNotFoundError as e:
        raise UserError(f"weights not found: {path}", hint="check the path") from e
    except OSError as e:
        raise UserError(f"weights {path} cannot be read: {e.strerror or e}", hint="check the file") from e
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as e:
        raise UserError(f"{path} is not a safetensors file", hint="give a .safetensors backbone") from e
    if not isinstance(header, dict):
        raise UserError(f"{path} is not a safetensors file", hint="give a .safetensors backbone")
    return header


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
