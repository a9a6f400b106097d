"""The checks of what annotations say of masks: polygons, or run lengths (RLE) of a bitmap, compressed or not.

What Detectron2's ``load_coco_json`` reads is read, and what it leaves out is left out: polygons of fewer than three
points or with an x without y, and objects of which no polygon remains.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from scaleprior.detect.data.coco_format import CocoId, CocoImage, are_pixels
from scaleprior.detect.data.problems import Findings, Numbered, Unchecked, drop_hint, offender
from scaleprior.detect.data.segmentation import run_lengths
from scaleprior.files import is_number

__all__ = ["MaskUse", "check_segmentations", "is_drawable"]

MaskUse = Literal["polygon", "bitmask", "truth"]
"""What masks are for: to train on, as ``INPUT.MASK_FORMAT`` keeps them, or to measure AP by, also that of crowds."""

_WITHOUT = "leave MODEL.MASK_ON False to train and measure boxes alone"
_SHORTEST = 6  # numbers of a polygon, those of three points
# COCO's API walks along an outline in fifths of a pixel and keeps each step, however few points there are.
_LONGEST_EDGE = 65_535  # pixels: the side of the largest JPEG
_LONGEST_OUTLINE = 1_000_000  # pixels of one object: 25 times around the largest image that is decoded
_MOST_PIXELS = 2**31  # of a mask, whose runs are numbers of 32 bits

# Why a mask cannot be used -> in words; the first that holds, in this order.
_FAULTS = {
    "segmentation_missing": "annotations without a segmentation",
    "segmentation": "annotations whose segmentation is neither a list of polygons [x1, y1, x2, y2, ...] nor RLE",
    "segmentation_number": "annotations with a polygon of something else than finite numbers below 1e9",
    "segmentation_outline": "annotations with an edge of more than 65,535 pixels, or an outline of more than a million",
    "segmentation_rle": "annotations whose RLE is damaged: its runs do not fill an image of its size",
    "segmentation_size": "annotations whose RLE is of another size than their image",
    "segmentation_format": "annotations whose segmentation is RLE, while INPUT.MASK_FORMAT is 'polygon'",
}
_HINTS = {
    "segmentation_missing": _WITHOUT,
    "segmentation_format": "set INPUT.MASK_FORMAT bitmask, which takes both",
}


def check_segmentations(
    entries: Sequence[Numbered],
    images: Mapping[CocoId, CocoImage],
    findings: Findings,
    *,
    use: MaskUse,
    leave_out: bool,
) -> tuple[list[Numbered], list[Numbered]]:
    """The annotations whose masks can be used, with the polygons that can, and those that cannot.

    A crowd's mask is looked at where AP is measured, and let alone in training, which leaves crowds out.

    Args:
        entries: annotations that are in order but for their masks.
        images: by id, with their sides.
        leave_out: those that cannot be used are left out; else they are an error.

    Raises:
        UserError: what cannot be used, as ``findings`` decides.
    """
    faults = [_fault(entry, images[entry["image_id"]], use) for _, entry in entries]
    for kind, what in _FAULTS.items():
        bad = [offender(*entry, "segmentation") for entry, fault in zip(entries, faults) if fault == kind]
        hint = _HINTS.get(kind) or drop_hint()
        findings.add("dropped" if leave_out else "error", kind, what, bad, hint="" if leave_out else hint)
    bad = [entry for entry, fault in zip(entries, faults) if fault is not None]
    kept, short, emptied = [], [], []
    for index, entry in (entry for entry, fault in zip(entries, faults) if fault is None):
        given = entry.get("segmentation")
        fit = _fit(given) if _counts(entry, use) else given
        if isinstance(given, list) and fit is not given:
            bad_ones = [polygon for polygon in given if not _is_fit(polygon)]
            short += [offender(index, {**entry, "polygon": bad_ones[0]}, "polygon")] * len(bad_ones)
            if not fit:
                emptied.append((index, entry))
                continue
        kept.append((index, entry if fit is given else {**entry, "segmentation": fit}))
    what = "polygons of fewer than three points or with an x without y"
    findings.add("dropped", "polygon_short", what, short, hint="")
    what = "annotations that have no other polygon, as in Detectron2"
    findings.add("dropped", "segmentation_empty", what, [offender(i, e, "segmentation") for i, e in emptied], hint="")
    return kept, bad + emptied


def _counts(entry: Unchecked, use: MaskUse) -> bool:
    """Whether the annotation's mask is used at all."""
    return use == "truth" or not entry.get("iscrowd")


def _fault(entry: Unchecked, image: CocoImage, use: MaskUse) -> str | None:
    """The first of ``_FAULTS`` that an annotation has."""
    if not _counts(entry, use):
        return None
    mask = entry.get("segmentation")
    if mask is None or mask in ([], {}, ""):
        return "segmentation_missing"
    if isinstance(mask, list):
        if not all(isinstance(polygon, list) for polygon in mask):
            return "segmentation"
        if not all(map(are_pixels, mask)):
            return "segmentation_number"
        return None if _is_short(mask) else "segmentation_outline"
    if not isinstance(mask, dict) or not isinstance(mask.get("counts"), (str, list)):
        return "segmentation"
    if not _is_sound(mask):
        return "segmentation_rle"
    if mask["size"] != [image["height"], image["width"]]:
        return "segmentation_size"
    return "segmentation_format" if use == "polygon" else None


def is_drawable(mask: Any) -> bool:
    """Whether COCO's API can be given a mask of which nothing is known: it asks for no more memory than there is.

    What else is wrong with it the API says itself; of no mask at all this is True.
    """
    if isinstance(mask, list):
        return not all(isinstance(polygon, list) and are_pixels(polygon) for polygon in mask) or _is_short(mask)
    return not isinstance(mask, dict) or _is_sound(mask)


def _is_short(polygons: Sequence[Sequence[float]]) -> bool:
    """Whether the API walks along outlines, given as ``[x1, y1, x2, y2, ...]``, in a moment."""
    # No edge is longer than twice the largest number; that will do for most, and takes a tenth of the time.
    reach = [max(max(polygon), -min(polygon)) if polygon else 0 for polygon in polygons]
    lengths = map(operator.mul, reach, map(len, polygons))
    if 2 * max(reach, default=0) <= _LONGEST_EDGE and sum(lengths) <= _LONGEST_OUTLINE:
        return True
    outline = 0.0
    for polygon in polygons:
        points = np.array(polygon[: len(polygon) // 2 * 2], dtype=np.float64).reshape(-1, 2)
        edges = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1, initial=0)
        outline += edges.sum()
        if edges.max(initial=0) > _LONGEST_EDGE or outline > _LONGEST_OUTLINE:
            return False
    return True


def _is_sound(mask: Mapping[str, Any]) -> bool:
    """Whether run lengths fill an image of the size that stands beside them."""
    size = mask.get("size")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        return False
    pixels = size[0] * size[1]
    return pixels < _MOST_PIXELS and isinstance(mask.get("counts"), (str, list)) and _fills(mask["counts"], pixels)


def _fills(counts: str | list[Any], pixels: int) -> bool:
    """Whether runs, compressed or not, are as many pixels as the image has; what else they are, the API never asks."""
    if isinstance(counts, str):
        runs = run_lengths(counts.encode()) if counts.isascii() else None
        return runs is not None and bool((runs >= 0).all()) and int(runs.sum()) == pixels
    return all(is_number(run) and run >= 0 and run == int(run) for run in counts) and sum(counts) == pixels


def _fit(mask: Any) -> Any:
    """What can be used of a mask that is in order, which is ``mask`` itself for the most part; [] of no polygon."""
    if isinstance(mask, list):
        return mask if all(map(_is_fit, mask)) else [polygon for polygon in mask if _is_fit(polygon)]
    counts = mask["counts"]
    whole = isinstance(counts, str) or all(type(run) is int for run in counts)
    return mask if whole else {**mask, "counts": [int(run) for run in counts]}


def _is_fit(polygon: Sequence[float]) -> bool:
    return len(polygon) >= _SHORTEST and len(polygon) % 2 == 0
