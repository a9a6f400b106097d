"""Readers of foreign backbones: which file it is, what its names mean, what is known of it; safely."""

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from scaleprior.backbones.readers.containers import KINDS as KINDS
    from scaleprior.backbones.readers.facts import ReadOptions as ReadOptions
    from scaleprior.backbones.readers.limits import (
        LIMITS as LIMITS,
        Limits as Limits,
        RefusedFileError as RefusedFileError,
    )
    from scaleprior.backbones.readers.read import read_backbone as read_backbone
    from scaleprior.backbones.readers.report import Reading as Reading, Report as Report
    from scaleprior.backbones.readers.timm_names import find_timm as find_timm

lazy_exports(__name__)
