"""What determines a fine-tuning run, as one hash: two runs with the same one end with the same weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.files import file_sha256

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from scaleprior.backbones.card import Card

__all__ = ["flat_config", "run_fingerprint"]

# Keys that change where and how fast, but not what is computed: a run may be resumed under other values of these.
_NOT_DETERMINING = (
    "OUTPUT_DIR",
    "MODEL.WEIGHTS",
    "MODEL.DEVICE",
    "DATALOADER.NUM_WORKERS",
    "SCALEPRIOR.IMAGE_CACHE_MB",
    "SCALEPRIOR.DATASETS",
    "SCALEPRIOR.RESULTS",
    "SCALEPRIOR.MINIVAL_IDS",  # what it lists is in the annotations' hash
    "SOLVER.CHECKPOINT_PERIOD",
    "DATASETS.TEST",
)
_NOT_DETERMINING_SECTIONS = ("PRETRAIN.", "TEST.")


def run_fingerprint(cfg: CfgNode, card: Card | None, annotations: Iterable[str | Path]) -> str:
    """SHA-256 over the config, the backbone's tensors and the annotation files that a run trains on.

    Args:
        card: of the backbone to start from; None from scratch.
        annotations: the COCO JSON files of ``DATASETS.TRAIN``.
    """
    settings = {
        key: value
        for key, value in flat_config(cfg)
        if key not in _NOT_DETERMINING and not key.startswith(_NOT_DETERMINING_SECTIONS)
    }
    backbone = None if card is None else card.tensors_sha256
    text = json.dumps([settings, backbone, [file_sha256(path) for path in annotations]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def flat_config(node: CfgNode, prefix: str = "") -> list[tuple[str, Any]]:
    """Every (dotted key, value) of a config."""
    items = []
    for name, value in node.items():
        if isinstance(value, dict):
            items += flat_config(value, f"{prefix}{name}.")
        else:
            items.append((f"{prefix}{name}", value))
    return items
