"""LazyConfigs as trees of calls: walked, and asked what they call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf

__all__ = ["is_call", "name_of", "nodes"]


def nodes(node: Any, path: str) -> Iterator[tuple[str, DictConfig]]:
    """Every mapping in a config with its dotted path, from the top; what points elsewhere is met there."""
    if isinstance(node, DictConfig):
        yield path, node
        names: list[Any] = list(node)
    elif isinstance(node, ListConfig):
        names = list(range(len(node)))
    else:
        return
    for name in names:
        if not (OmegaConf.is_interpolation(node, name) or OmegaConf.is_missing(node, name)):
            yield from nodes(node[name], f"{path}.{name}")


def _target(node: Any) -> Any:
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    return locate(target) if isinstance(target, str) else target


def is_call(node: Any, what: Any) -> bool:
    """Whether a node calls ``what``, or a class derived from it."""
    target = _target(node)
    if isinstance(what, type):
        return isinstance(target, type) and issubclass(target, what)
    return target is what


def name_of(node: Any) -> str:
    """What a node calls, for messages: ``ResNet``."""
    target = _target(node)
    return "list" if isinstance(node, (list, ListConfig)) else getattr(target, "__name__", None) or "mapping"
