"""What determines a fine-tuning run, as one hash: two runs with the same one end with the same weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.config.dotted import flat_config, set_key
from scaleprior.config.fingerprint import training_settings
from scaleprior.files import file_sha256
from scaleprior.training.extension import Schedule

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from scaleprior.backbones.card import Card

__all__ = ["run_fingerprint", "run_parts", "run_schedule"]


def run_fingerprint(
    cfg: CfgNode, card: Card | None, annotations: Iterable[str | Path], *, detector: str | None = None
) -> str:
    """SHA-256 over the config, the backbone's tensors and the annotation files that a run trains on.

    Args:
        card: of the backbone to start from; None from scratch.
        annotations: the COCO JSON files of ``DATASETS.TRAIN``.
        detector: SHA-256 of the file, of a run that starts from a whole detector.
    """
    backbone = detector if card is None else card.tensors_sha256
    text = json.dumps([training_settings(cfg), backbone, [file_sha256(path) for path in annotations]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def run_parts(
    cfg: CfgNode, card: Card | None, annotations: Iterable[str | Path], *, engine: str, detector: str | None = None
) -> dict[str, Any]:
    """What :func:`run_fingerprint` of the same arguments is made of, for ``RunFolder.made_of``.

    Args:
        engine: its name, which no fingerprint holds.
    """
    start = detector if card is None else card.tensors_sha256
    return {
        "engine": engine,
        "config": training_settings(cfg),
        "backbone" if detector is None else "detector to start from": None if start is None else {"fingerprint": start},
        "training set": {"fingerprint": [file_sha256(path) for path in annotations]},
    }


def run_schedule(
    cfg: CfgNode, card: Card | None, annotations: Sequence[str | Path], *, detector: str | None = None
) -> Schedule:
    """What may differ in a run that is extended; arguments as for :func:`run_fingerprint`."""

    def under(keys: Mapping[str, Any]) -> str:
        other = cfg.clone()
        other.defrost()
        for key, value in keys.items():
            set_key(other, key, value)
        return run_fingerprint(other, card, annotations, detector=detector)

    return Schedule(dict(flat_config(cfg)), under)
