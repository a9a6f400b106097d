"""Why a tensor that is no part of the trunk is left out, by the words in its name; and which are strangers in it."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping
from typing import Any

from scaleprior.backbones.readers.search.places import Place

__all__ = ["ANOTHER", "BESIDE", "left_inside", "left_outside"]

ANOTHER, BESIDE = "another trunk", "beside the trunk"
_REASONS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (reason, re.compile(rf"(?:{words})$", re.IGNORECASE))
    for reason, words in (
        ("optimiser", r"optimi[sz]ers?(?:_states?|_state_dict)?|optim|opt|(?:lr_)?schedulers?|amp|"
         r"(?:grad_|loss_)?scaler|momentum_buffer|exp_avg(?:_sq)?|max_exp_avg_sq|square_avg"),
        ("detector", r"rpn\w*|roi_heads?|\w*bbox\w*|\w*fpn\w*|necks?|anchor\w*|mask_head\w*|proposal_generator|"
         r"transformer|(?:class|bbox|query)_embed\w*|input_proj|sem_seg_head|keypoint\w*|box_predictor|pixel_(?:mean|std)"),
        ("projector", r"\w*project(?:ion|or)s?\w*|proj|proj_head|\w*predict(?:ion|or)\w*|prototypes?\w*|queue\w*|ptr|"
         r"memory_bank\w*|dino_head|dino_loss|center"),
        ("classifier", r"fc\d*|classif(?:ier|y)\w*|linear\w*|logits?|last_linear|cls|clf"),
        ("head", r"\w*heads?|\w*mlp\w*|\w*embedding\w*|bottleneck|\w*decoder\w*|up[\d_]\w*|up|\w*deconv\w*|aspp\w*|"
         r"ppm\w*|final\w*|aux\w*|seg\w*|toplayer|latlayer\d*|lateral\w*|smooth\w*"),
        ("counter", r"num_batches_tracked|n_averaged"),
    )
)  # fmt: skip
"""Reason -> the parts of a name that say it; the first reason that a name gives counts."""
_BETWEEN = re.compile(r"(?:.*_)?(?:se|ca|sa|att\w*|cbam|eca|gc|gate\w*|nl\w*|non_?local\w*|input\w*|norm\w*)\d*$", re.I)
"""Parts that stand between the maps although they hold linear layers."""
_DOTS = re.compile(r"[./]")


def left_outside(place: Place, name: str) -> str:
    """Why a tensor outside the trunk's prefix is left out."""
    if place.layout.beside is not None and (dropped := place.layout.beside(name)):
        return dropped.reason
    return _reason(_DOTS.split(name))


def left_inside(
    place: Place,
    targets: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    full: Mapping[str, str],
    homes: Mapping[str, str],
    others: Collection[str] = (),
) -> dict[str, str]:
    """Name -> why it is left out, of those under the trunk's prefix that its layout does not know; without strangers.

    Strangers are whatever may change the maps: everything in the trunk's own parts (``layer1.0.se.fc1.weight``) and in
    parts numbered like them (``layer5``, ``conv2``), and parts of convolutions or of norms that nobody knows. A part
    of linear layers reads the pooled map, so it is a head, whatever it is called.

    Args:
        targets: names behind the prefix -> what the layout makes of them.
        shapes, full: the same names -> shapes, names in the file.
        homes: names in the file -> the dict that they lie in.
        others: prefixes behind which trunks stand, this one or others.
    """
    firsts = {name: _DOTS.split(name, maxsplit=1)[0] for name in targets}
    own = {_unnumbered(firsts[name]) for name, target in targets.items() if isinstance(target, str)}
    sides: dict[str, set[int]] = {}
    for name, shape in shapes.items():
        sides.setdefault(firsts[name], set()).add(len(shape))
    reasons = {}
    within = tuple(prefix for prefix in others if len(prefix) > len(place.prefixes[0]))
    for name in (name for name, target in targets.items() if target is None):
        first, home = firsts[name], homes[full[name]]
        if place.layout.beside is not None and (dropped := place.layout.beside(name)):
            reasons[name] = dropped.reason
        elif _unnumbered(first) in own:
            continue
        elif full[name].startswith(within):
            reasons[name] = ANOTHER
        elif f"{place.home}." != f"{home}." and not f"{place.home}.".startswith(f"{home}."):
            reasons[name] = _reason(_DOTS.split(name))
        elif (reason := _reason([first])) != BESIDE:
            reasons[name] = reason
        elif max(sides[first]) == 2 and not _BETWEEN.match(first):
            reasons[name] = "head"
    return reasons


def _reason(parts: list[str]) -> str:
    at = min(map(_first_reason, parts))
    return _REASONS[at][0] if at < len(_REASONS) else BESIDE


@functools.lru_cache(maxsize=4096)  # a file has thousands of names, of few different parts
def _first_reason(part: str) -> int:
    return next((at for at, (_, words) in enumerate(_REASONS) if words.match(part)), len(_REASONS))


def _unnumbered(part: str) -> str:
    return part.rstrip("0123456789")
