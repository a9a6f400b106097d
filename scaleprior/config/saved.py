"""The config of a run on disk: ``config.yaml`` for any Detectron2, and beside it ``scaleprior.yaml`` with our keys.

Stock Detectron2 refuses a file that holds a key which it does not have. So ``config.yaml`` holds its keys only;
``scaleprior.yaml`` begins with ``_BASE_: config.yaml``, holds our keys that are not at their defaults, and alone is the
whole config. ``load_config`` takes either name for the whole.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from scaleprior.config.bases import CONFIG_FILE, OWN_FILE, OWN_FILE_BEGINS
from scaleprior.config.dotted import flat_config, get_key
from scaleprior.config.keys.table import find_key
from scaleprior.config.load import detectron2_defaults
from scaleprior.files import write_text

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

Node = TypeVar("Node", bound="CfgNode")

__all__ = ["drop_keys", "is_own_key", "own_keys", "write_config"]

# Detectron2 would read the rest of such a config and build norms with another eps, without a word: it is to stumble.
_MUST_NOT_BE_MISSED = ("MODEL.NORM_EPS",)
# Our word in a key of Detectron2's: its device is "cuda" where a file says nothing, and ours is "auto".
_OUR_WORDS = {"MODEL.DEVICE": "auto"}


def is_own_key(name: str) -> bool:
    """Whether a dotted name is a key of ours or of a package that brings an engine: not one of stock Detectron2's."""
    return find_key(name) is not None and name not in detectron2_defaults()


def own_keys(cfg: CfgNode) -> dict[str, bool]:
    """Our keys on ``cfg``, which may be Detectron2's, by dotted names; True for those that are at their defaults."""
    named = ((name, value, find_key(name)) for name, value in flat_config(cfg) if is_own_key(name))
    return {name: key is not None and value == key.default for name, value, key in named}


def write_config(cfg: CfgNode, folder: str | Path, *, complete: Collection[str] = ()) -> None:
    """Write ``config.yaml`` and ``scaleprior.yaml`` into ``folder``; a run is claimed before.

    One of our keys stays in ``config.yaml`` where it is set: MODEL.NORM_EPS, with which a stock Detectron2 would build
    another function and not know.

    Args:
        complete: sections of ours, such as "PRETRAIN", of which ``scaleprior.yaml`` also holds what is at its default.

    Raises:
        FailureError: they cannot be written.
    """
    folder, values, ours = Path(folder), dict(flat_config(cfg)), own_keys(cfg)
    dropped = [name for name, usual in ours.items() if usual or name not in _MUST_NOT_BE_MISSED]
    dropped += [name for name, word in _OUR_WORDS.items() if values.get(name) == word]
    own: dict[str, Any] = {}
    for name, usual in ours.items():
        if not usual or name.split(".")[0] in complete:
            *parents, leaf = name.split(".")
            node = own
            for part in parents:
                node = node.setdefault(part, {})
            node[leaf] = values[name]
    if (folder / OWN_FILE).exists():  # an earlier run's, which must not be taken with the new first file
        write_text(folder / OWN_FILE, OWN_FILE_BEGINS)
    write_text(folder / CONFIG_FILE, drop_keys(cfg, dropped).dump())
    write_text(folder / OWN_FILE, OWN_FILE_BEGINS + (yaml.safe_dump(own) if own else ""))


def drop_keys(cfg: Node, names: Collection[str]) -> Node:
    """A copy of ``cfg`` without these dotted names, and without the sections that are empty then."""
    copy = cfg.clone()
    copy.defrost()
    for name in names:
        path = name.split(".")
        while path:
            node: Any = get_key(copy, ".".join(path[:-1])) if path[:-1] else copy
            del node[path.pop()]
            if node:
                break
    return copy
