"""The table of keys, and what it puts on a config. Packages that bring an engine declare theirs here, too."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from scaleprior.config.dotted import flat_config
from scaleprior.config.keys import data, heads, model, pretraining, solver
from scaleprior.config.keys.key import Key
from scaleprior.errors import UserError

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = [
    "DETECTION_KEYS",
    "OWN_KEYS",
    "add_keys",
    "all_keys",
    "check_values",
    "does_nothing",
    "find_key",
    "nearest",
]

DETECTION_KEYS: tuple[Key, ...] = (*model.KEYS, *heads.KEYS, *data.KEYS, *solver.KEYS)
"""Detectron2's that ScalePrior honours: same names, types and defaults, but for ``MODEL.DEVICE``, "auto" for "cuda"."""

OWN_KEYS: tuple[Key, ...] = (*data.OWN, *pretraining.KEYS)
"""ScalePrior's own, on its config and on Detectron2's alike."""

_table = {key.name: key for key in (*DETECTION_KEYS, *OWN_KEYS)}


def add_keys(cfg: CfgNode, keys: Iterable[Key]) -> None:
    """Declare ``keys`` and put each on ``cfg`` at its default.

    An engine that brings keys of its own does this in its ``default_config``; files and command lines may then set
    them, and errors, ``scaleprior config`` and fingerprints know what their rows say.

    Raises:
        UserError: a key of that name is declared already, and differently.
    """
    for key in keys:
        known = _table.setdefault(key.name, key)
        if known != key:
            raise UserError(f"config key {key.name} is declared twice, differently", hint="choose another name")
        node = cfg
        *parents, leaf = key.name.split(".")
        for parent in parents:
            if parent not in node:
                node[parent] = type(cfg)()  # Detectron2's configs accept nodes of their own class only
            node = node[parent]
        node[leaf] = copy.deepcopy(key.default)


def all_keys() -> tuple[Key, ...]:
    """Every declared key, in the order of declaration."""
    return tuple(_table.values())


def check_values(cfg: CfgNode, engine: str) -> None:
    """Refuse the first value that ``engine`` does not take, of the keys that it honours and that do something.

    Args:
        engine: an engine's name, or "pretraining".

    Raises:
        UserError: names the key, its value and what is legal.
    """
    values = dict(flat_config(cfg))
    for name, value in values.items():
        key = find_key(name)
        if key is not None and engine in key.engines and not does_nothing(key, values):
            key.check(value, engine)


def does_nothing(key: Key, values: Mapping[str, Any]) -> bool:
    """Whether ``key`` describes a part that is off, by the ``values`` of all keys by their dotted names.

    Detectron2's base configs describe the mask head for everybody.
    """
    return bool(key.part_of) and not values.get(key.part_of, False)


def find_key(name: str) -> Key | None:
    """The row of a dotted name; None where there is none (most keys of Detectron2's)."""
    return _table.get(name)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known dotted name that ``name`` most likely meant, in capitals or not, if any is near."""
    name, words = name.upper(), {k.upper(): k for k in known}
    near = difflib.get_close_matches(name, words, n=1, cutoff=0.6)
    if near:
        return words[near[0]]
    leaf = difflib.get_close_matches(name.rsplit(".", 1)[-1], [k.rsplit(".", 1)[-1] for k in words], n=1)
    return next((k for word, k in words.items() if leaf and word.rsplit(".", 1)[-1] == leaf[0]), None)
