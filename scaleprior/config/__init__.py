"""The one configuration: Detectron2's keys that ScalePrior honours, and its own, as an fvcore ``CfgNode``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from scaleprior.config.load import (
        LoadedConfig as LoadedConfig,
        data_file as data_file,
        load_config as load_config,
        parse_overrides as parse_overrides,
    )
    from scaleprior.config.own import add_scaleprior_config as add_scaleprior_config


def get_cfg() -> CfgNode:
    """A fresh config with every key at its default; ``detection.py``, ``own.py`` and ``pretrain.py`` explain them."""
    from fvcore.common.config import CfgNode

    from scaleprior.config.detection import add_detection_config
    from scaleprior.config.own import add_scaleprior_config

    cfg = CfgNode()
    add_detection_config(cfg)
    add_scaleprior_config(cfg)
    return cfg


lazy_exports(__name__)
