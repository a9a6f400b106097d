"""What annotations say beside boxes, masks and keypoints: whether a model that is trained on them finds it everywhere.

Shape: an annotation's keypoints are K triples (x, y, visibility) in one list, x and y in pixels, visibility 0, 1 or 2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scaleprior.detect.data.coco_format import CocoTruth
from scaleprior.files import is_number
from scaleprior.wording import counted

__all__ = ["Extras", "extras_of"]

_SIDES = re.compile("left|right", re.IGNORECASE)
_OTHER = {"left": "right", "right": "left"}


@dataclass(frozen=True)
class Extras:
    """What a set has beside boxes.

    Attributes:
        keypoint_names: K of them; () where the set has none that could be used.
        keypoint_pairs: of names that a horizontal flip exchanges.
        filled: keypoints or their number had to be added where annotations lack them.
        faults: "masks" and "keypoints" -> why a model of these cannot use the set.
    """

    keypoint_names: tuple[str, ...] = ()
    keypoint_pairs: tuple[tuple[str, str], ...] = ()
    filled: bool = False
    faults: Mapping[str, str] = field(default_factory=dict)


def extras_of(truth: CocoTruth) -> Extras:
    """What the annotations of ``truth``, loaded with ``keep_all``, say; their keypoints are completed in place.

    COCO's evaluation and Detectron2 both ask every object for its keypoints and their number where one has them: an
    object without gets K triples of zeros, which COCO's own files have, too.
    """
    faults = {}
    bare = [a["id"] for a in truth["annotations"] if not a.get("segmentation")]
    if bare:
        what = counted(len(bare), "annotations without a segmentation")
        faults["masks"] = f"has {what}, the first is number {bare[0]}"
    try:
        names, pairs = _keypoint_names(truth)
    except ValueError as e:
        return Extras(faults={**faults, "keypoints": str(e)})
    return Extras(names, pairs, _complete(truth, len(names)), faults)


def _keypoint_names(truth: CocoTruth) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Names and pairs.

    Raises:
        ValueError: a sentence about the set.
    """
    entries: list[Mapping[str, Any]] = [*truth["categories"]]
    named = {
        tuple(map(str, e["keypoints"])) for e in entries if isinstance(e.get("keypoints"), list) and e["keypoints"]
    }
    if len(named) != 1:
        raise ValueError(f"has {len(named)} lists of keypoints in its categories, where one is needed")
    (names,) = named
    annotations: list[Mapping[str, Any]] = [*truth["annotations"]]
    bad = [a for a in annotations if a.get("keypoints") and not _is_sound(a["keypoints"], len(names))]
    if bad:
        what = counted(len(bad), f"annotations whose keypoints are not {len(names)} triples of x, y and 0, 1 or 2")
        raise ValueError(f"has {what}, the first is number {bad[0]['id']}")
    if not any(a.get("keypoints") for a in annotations):
        raise ValueError("has no annotation with keypoints")
    mirrored = {name: _SIDES.sub(_mirrored, name) for name in names}
    alone = [name for name, other in mirrored.items() if other not in names]
    if alone:
        raise ValueError(f"has the keypoint {alone[0]!r} and no {mirrored[alone[0]]!r}, which a flip makes of it")
    return names, tuple((name, other) for name, other in mirrored.items() if names.index(name) < names.index(other))


def _mirrored(found: re.Match[str]) -> str:
    word, other = found[0], _OTHER[found[0].lower()]
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other


def _is_sound(keypoints: Any, count: int) -> bool:
    return (
        isinstance(keypoints, list)
        and len(keypoints) == 3 * count
        and all(map(is_number, keypoints))
        and set(keypoints[2::3]) <= {0, 1, 2}
    )


def _complete(truth: CocoTruth, count: int) -> bool:
    filled = False
    annotations: list[dict[str, Any]] = [*truth["annotations"]]  # type: ignore[list-item]
    for annotation in annotations:
        if not annotation.get("keypoints"):
            annotation["keypoints"] = [0] * (3 * count)
            filled = True
        visible = sum(v > 0 for v in annotation["keypoints"][2::3])
        if type(annotation.get("num_keypoints")) is not int:
            annotation["num_keypoints"] = visible
            filled = True
    return filled
