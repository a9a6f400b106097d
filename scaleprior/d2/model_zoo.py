"""Detectron2's config zoo with another backbone: ``with_backbone("COCO-Detection/retinanet_R_50_FPN_1x.yaml", W)``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode

from scaleprior.backbones.addresses import text_of
from scaleprior.backbones.weights import has_card, read_card
from scaleprior.backbones.zoo import is_uri
from scaleprior.config import load_config
from scaleprior.d2.contract import apply_card
from scaleprior.d2.plan import default_config, open_copy, start_file
from scaleprior.d2.zoo_files import zoo_file
from scaleprior.errors import UserError

__all__ = ["with_backbone"]


def with_backbone(config: str | Path, weights: str | Path, overrides: Sequence[str] = ()) -> CfgNode:
    """A config of Detectron2's zoo, or any YAML of yours, around another backbone.

    Depth, widths, norm, stride, pixel statistics, channel order and ``MODEL.WEIGHTS`` follow the backbone's card; what
    the card does not speak of (schedule, heads, data, ``FREEZE_AT``) stays as the file has it.

    Args:
        config: a path, or a name of the zoo such as "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml".
        weights: whatever names a backbone in training: a file with a card, a foreign one that says all that matters,
            ``scaleprior://NAME``, ``detectron2://...``.
        overrides: ``["SOLVER.MAX_ITER", "1000", ...]``; those that contradict the card are refused.

    Returns:
        A config of Detectron2's with our keys, not frozen. ``MODEL.DEVICE`` is Detectron2's default, "cuda", where
        there is a GPU, else "cpu".

    Raises:
        UserError: no such config or backbone; an override that contradicts the card; a detector that has no place for
            such a backbone.
    """
    import torch

    path = Path(config)
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"config {config} is not a YAML file", hint="name one of Detectron2's *.yaml configs")
    file = path if path.is_file() else zoo_file(str(config))
    loaded = load_config(file, overrides, defaults=default_config())
    from_overrides = load_config(None, overrides, defaults=default_config()).explicit
    file = start_file(weights)
    card = read_card(file)
    cfg = open_copy(loaded.cfg)
    if "SEED" not in loaded.explicit:
        cfg.SEED = default_config().SEED  # what a program of Detectron2's makes of it stays its own affair
    apply_card(cfg, card, from_overrides)
    # A name of the zoo and a file with a card are loaded as they are; of a foreign one, what it was converted to.
    cfg.MODEL.WEIGHTS = text_of(weights) if is_uri(weights) or has_card(weights) else str(file)
    if cfg.MODEL.DEVICE == "auto":
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    return cfg
