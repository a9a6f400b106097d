"""Configs as a Python program gives them: a name, a path, or a mapping, and overrides as a mapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from scaleprior.config.dotted import flat_config
from scaleprior.config.load import LoadedConfig, load_config, override_config
from scaleprior.errors import UserError

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["ConfigSource", "open_config"]

ConfigSource: TypeAlias = str | Path | Mapping[str, Any] | LoadedConfig | None
"""A YAML file, by path or by its name in ``configs/``; a mapping of keys; a loaded config; None: the defaults."""


def open_config(
    config: ConfigSource, overrides: Mapping[str, Any] | None = None, *, defaults: CfgNode | None = None
) -> LoadedConfig:
    """A resolved config.

    Args:
        config: a mapping holds ``{"SOLVER": {"MAX_ITER": 10}}`` or ``{"SOLVER.MAX_ITER": 10}``, and may name the file
            that it changes as ``"_BASE_"``.
        overrides: keys set on top, written like such a mapping; values are Python's, not text to be parsed.
        defaults: every key there is, as ``load_config`` takes them; not for a config that is loaded.

    Raises:
        UserError: see ``load_config``.
    """
    own: dict[str, Any] = {}
    if isinstance(config, LoadedConfig):
        loaded = config
    elif isinstance(config, Mapping):
        own = dict(config)
        loaded = load_config(own.pop("_BASE_", None), defaults=defaults)
        loaded = replace(loaded, source="given as a mapping")
    else:
        loaded = load_config(config, defaults=defaults)
    loaded = override_config(loaded, _pairs(own, "config"), origin="config")
    return override_config(loaded, _pairs(overrides or {}, "overrides"), origin="overrides")


def _pairs(node: Mapping[str, Any], what: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(node, Mapping):
        raise UserError(f"{what} is {node!r}", hint='give a mapping such as {"SOLVER.MAX_ITER": 10}')
    for name, value in flat_config(node):
        yield name, str(value) if isinstance(value, Path) else value
