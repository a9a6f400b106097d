"""Detectron2's config with our keys on it, whose dump stock Detectron2 reads as long as nobody sets them."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode

from scaleprior.config.saved import drop_keys, own_keys

__all__ = ["ConfigNode"]


class ConfigNode(CfgNode):
    """A ``CfgNode`` that leaves out of :meth:`dump` those of our keys that are at their defaults.

    Detectron2's ``default_setup`` writes ``config.yaml`` by it, in any trainer. One of our keys that is set stays: who
    reads such a file has to know it, and stock Detectron2 refuses it by name.
    """

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """As ``CfgNode.dump``."""
        usual = [name for name, is_usual in own_keys(self).items() if is_usual]
        return CfgNode.dump(drop_keys(self, usual), *args, **kwargs)
