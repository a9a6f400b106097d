"""From a file's tree of names to the one trunk in it: unwrapped, of a known family, its names still foreign."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from scaleprior.backbones.readers.containers import Content
from scaleprior.backbones.readers.facts import ReadOptions
from scaleprior.backbones.readers.limits import Limits, check_name
from scaleprior.backbones.readers.pickle import Placeholder
from scaleprior.backbones.readers.recognise import recognise
from scaleprior.backbones.readers.report import some
from scaleprior.backbones.trunks.family import TrunkFamily
from scaleprior.backbones.trunks.layout import Layout
from scaleprior.errors import UserError
from scaleprior.wording import Wording, parameter

__all__ = ["Candidate", "find_candidate"]

_WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model", "model_state", "blobs", "params")


@dataclass
class Candidate:
    """A trunk as it stands in a file.

    Attributes:
        family, layout: whose names they are.
        tensors: the layout's names -> arrays or tensors over the file; whoever renames them empties it.
        notes: what a reader should hear, in sentences.
    """

    family: TrunkFamily
    layout: Layout
    tensors: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def find_candidate(content: Content, options: ReadOptions, limits: Limits) -> Candidate:
    """The trunk in ``content``.

    Raises:
        UserError: there is none, or its family cannot be held. RefusedFileError: names that are no names.
    """
    state, notes = _state_dict(content, options, limits)
    family, layout = recognise(state, str(content.path))
    return Candidate(family, layout, state, notes)


def _state_dict(content: Content, options: ReadOptions, limits: Limits) -> tuple[dict[str, Any], list[str]]:
    """The flat dict of tensors inside whatever wraps it, without prefixes that parallel training adds."""
    tree, notes, path = content.tree, [], content.path
    if content.left_out:
        notes.append(f"objects that are no weights were passed over: {some(content.left_out)}")
    if not isinstance(tree, Mapping) and not _dict_in(tree):
        kind = tree.name if isinstance(tree, Placeholder) else type(tree).__name__
        raise UserError(f"{path} holds a {kind}, not named tensors", hint="save a state_dict")
    tree = _dict_in(tree)
    if options.state is not None:
        if not (state := _dict_in(tree.get(options.state))):
            raise UserError(f"{path} has no state dict {options.state!r}", hint=f"it has {sorted(map(str, tree))[:12]}")
        tree = state
    while inner := [key for key in _WRAPPERS if _dict_in(tree.get(key))]:
        if len(inner) > 1:
            notes.append(Wording(f"took {inner[0]}, not {', '.join(inner[1:])}; {parameter('state')} chooses"))
        tree = _dict_in(tree[inner[0]])
    tensors = {k: v for k, v in tree.items() if isinstance(v, (Tensor, np.ndarray))}
    limits.check_keys(len(tensors), str(path))
    for name in tensors:
        check_name(name, str(path), limits)
    for prefix in ("module.", "_orig_mod.", "module."):
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors, notes


def _dict_in(value: Any) -> Mapping[Any, Any]:
    """The dict that this is or that an object beside the weights keeps; else an empty one."""
    value = value.content if isinstance(value, Placeholder) else value
    return value if isinstance(value, Mapping) else {}
