"""The one configuration: Detectron2's keys that ScalePrior honours, and its own, as an fvcore ``CfgNode``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from scaleprior.config.defaults import add_scaleprior_config as add_scaleprior_config, get_cfg as get_cfg
    from scaleprior.config.keys import Key as Key, add_keys as add_keys
    from scaleprior.config.load import (
        LoadedConfig as LoadedConfig,
        data_file as data_file,
        load_config as load_config,
        parse_overrides as parse_overrides,
    )
    from scaleprior.config.sources import open_config as open_config

lazy_exports(__name__)
