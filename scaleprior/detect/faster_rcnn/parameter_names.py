"""The map between our detector's parameter names and Detectron2's, so that files speak Detectron2's language."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from scaleprior.backbones.trunks.resnet.names import to_detectron2

__all__ = ["detectron2_names", "trunk_names"]

_PYRAMID = re.compile(r"backbone\.fpn\.(inner|layer)_blocks\.(\d+)\.([01])\.(\w+)")
_TRUNK = re.compile(r"backbone\.(?:bottom_up\.(.+)|(?!fpn_)(.+))|roi_heads\.(res5\..+)")
_HEAD_CONV = re.compile(r"(roi_heads\.(?:box_head\.conv|mask_head\.mask_fcn)\d+)\.([01])\.(\w+)")
_BODIES = {"backbone.bottom_up.trunk.body.": "backbone.bottom_up.", "backbone.trunk.body.": "backbone."}
_RES5 = "roi_heads.box_head.res5."


def detectron2_names(names: Iterable[str], trunk: Mapping[str, str], first_level: int = 2) -> dict[str, str]:
    """Our name -> Detectron2's, for the entries of a ``Detector``'s state dict.

    ``num_batches_tracked``, which says how often a BN was trained and is of no use afterwards, is left out.

    Args:
        trunk: the trunk's own names of its tensors -> canonical ones (``Trunk.canonical_names``).
        first_level: N of the first of ``MODEL.FPN.IN_FEATURES`` (resN).
    """
    return {name: _rename(name, trunk, first_level) for name in names if not name.endswith(".num_batches_tracked")}


def trunk_names(names: Iterable[str]) -> dict[str, str]:
    """Name in a canonical backbone file -> Detectron2's name, for those of a detector's tensors that such a file fills.

    In C4 that is the head's res5, too.
    """
    found = {}
    for name in names:
        match = _TRUNK.fullmatch(name)
        if match:
            found[match[1] or match[2] or match[3]] = name
    return found


def _rename(name: str, trunk: Mapping[str, str], first_level: int) -> str:
    for prefix, theirs in _BODIES.items():
        if name.startswith(prefix):
            return theirs + trunk[name[len(prefix) :]]
    if name.startswith(_RES5):
        (renamed,) = to_detectron2({f"layer4.{name[len(_RES5) :]}": None})
        return f"roi_heads.{renamed}"
    match = _PYRAMID.fullmatch(name)
    if match:
        kind, index, part, tensor = match.groups()
        place = "lateral" if kind == "inner" else "output"
        return f"backbone.fpn_{place}{first_level + int(index)}{'.norm' if part == '1' else ''}.{tensor}"
    match = _HEAD_CONV.fullmatch(name)
    if match:
        conv, part, tensor = match.groups()
        return f"{conv}{'.norm' if part == '1' else ''}.{tensor}"
    return name
