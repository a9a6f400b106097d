"""Configs by dotted names: ``MODEL.RESNETS.DEPTH``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["flat_config", "get_key", "set_key"]


def get_key(cfg: Mapping[str, Any], name: str) -> Any:
    """The value under a dotted name.

    Raises:
        KeyError: there is none.
    """
    node: Any = cfg
    for part in name.split("."):
        node = node[part]
    return node


def set_key(cfg: Any, name: str, value: Any) -> None:
    """Set a dotted name whose parents are there; a config must not be frozen."""
    parent, _, leaf = name.rpartition(".")
    node = get_key(cfg, parent) if parent else cfg
    node[leaf] = value


def flat_config(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every (dotted name, value) of nested mappings, in their order."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from flat_config(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
