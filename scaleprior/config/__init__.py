"""The one configuration: Detectron2's keys that ScalePrior honours, and its own, as an fvcore ``CfgNode``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__getattr__, _ = lazy_exports(
    __name__, {"LoadedConfig": "load", "data_file": "load", "load_config": "load", "parse_overrides": "load"}
)
__all__ = ["LoadedConfig", "data_file", "get_cfg", "load_config", "parse_overrides"]


def get_cfg() -> CfgNode:
    """A fresh config with every key at its default; see ``detection.py`` and ``pretrain.py`` for their meaning."""
    from fvcore.common.config import CfgNode

    from scaleprior.config.detection import add_detection_config
    from scaleprior.config.pretrain import add_pretrain_config

    cfg = CfgNode()
    add_detection_config(cfg)
    add_pretrain_config(cfg)
    return cfg
