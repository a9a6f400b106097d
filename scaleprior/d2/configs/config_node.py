"""Detectron2's config with our keys on it, whose dump stock Detectron2 reads as long as nobody sets them."""

from __future__ import annotations

import copy
from typing import Any

from detectron2.config import CfgNode

from scaleprior.config import add_scaleprior_config
from scaleprior.config.dotted import flat_config, get_key, set_key
from scaleprior.config.saved import drop_keys, own_keys

__all__ = ["ConfigNode", "declare_own_keys"]


class ConfigNode(CfgNode):
    """A ``CfgNode`` that leaves out of :meth:`dump` those of our keys that are at their defaults.

    Detectron2's ``default_setup`` writes ``config.yaml`` by it, in any trainer. One of our keys that is set stays: who
    reads such a file has to know it, and stock Detectron2 refuses it by name.
    """

    @classmethod
    def of(cls, cfg: CfgNode) -> ConfigNode:
        """A copy of a ``CfgNode``, with what its nodes allow and deprecate. Nodes of two classes do not merge."""
        node = cls()
        for name, value in cfg.items():
            dict.__setitem__(node, name, cls.of(value) if isinstance(value, CfgNode) else copy.deepcopy(value))
        node.__dict__.update(copy.deepcopy(cfg.__dict__))
        return node

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """As ``CfgNode.dump``."""
        usual = [name for name, is_usual in own_keys(self).items() if is_usual]
        return CfgNode.dump(drop_keys(self, usual), *args, **kwargs)


def declare_own_keys(cfg: CfgNode) -> None:
    """``add_scaleprior_config`` for a config that may have some of our keys, which keep their values: in place, frozen
    or not."""
    frozen = cfg.is_frozen()
    cfg.defrost()
    ours = type(cfg)()
    add_scaleprior_config(ours)
    kept = [(name, get_key(cfg, name)) for name, _ in flat_config(ours) if _has(cfg, name)]
    add_scaleprior_config(cfg)
    for name, value in kept:
        set_key(cfg, name, value)
    if frozen:
        cfg.freeze()


def _has(cfg: CfgNode, name: str) -> bool:
    try:
        get_key(cfg, name)
    except KeyError:
        return False
    return True
