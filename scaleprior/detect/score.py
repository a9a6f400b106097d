"""COCO AP of detections that anybody's detector wrote, against anybody's truth: two JSON files, no images, no model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from scaleprior.detect.data.coco import DetectionSet, load_truth
from scaleprior.detect.data.coco_check import as_id
from scaleprior.detect.data.coco_format import MOST_BYTES, CocoId, CocoTruth, Detection, are_pixels
from scaleprior.detect.data.dropped import record_dropped
from scaleprior.detect.data.problems import DropBad, Problem
from scaleprior.detect.data.segmentation_check import is_drawable
from scaleprior.detect.evaluate import coco_ap
from scaleprior.detect.metrics import DetectionResult, results_to_dict
from scaleprior.errors import UserError
from scaleprior.files import is_number, write_json
from scaleprior.pages.numbers import some
from scaleprior.parsing import read_json
from scaleprior.wording import shown

__all__ = ["score_detections"]

logger = logging.getLogger(__name__)


def score_detections(
    detections: str | Path | Sequence[Mapping[str, Any]],
    truth: str | Path | CocoTruth | DetectionSet,
    *,
    drop_bad: DropBad = "none",
    out: str | Path | None = None,
) -> DetectionResult:
    """COCO AP of a results file; boxes always, and masks where detections and truth all have one.

    ::

        sp.detect.score_detections("coco_instances_results.json", "instances_val2017.json").ap

    Args:
        detections: COCO's results format, as a file or as what is in it: ``image_id``, ``category_id``, ``bbox``
            [x, y, width, height] in pixels and ``score`` of each. Where all have a ``segmentation`` (compressed RLE)
            and none a ``bbox``, boxes are those around the masks, as in pycocotools.
        truth: an instances file; a set, or its ``truth``.
        drop_bad: of a file, as :func:`load_coco`; detections on images that are left out are, too.
        out: folder for ``results.json`` and, where something was left out, ``dropped.json``, which lists it; by default
            nothing is written.

    Raises:
        UserError: detections of images or categories that the truth has not, or that are none; how many, and the first.
            A truth that :func:`load_coco` refuses, or one without objects.
    """
    source = str(detections) if isinstance(detections, (str, Path)) else "detections"
    lost: set[CocoId | None] = set()
    found: tuple[Problem, ...] = ()
    if isinstance(truth, DetectionSet):
        known = truth.truth
    elif isinstance(truth, (str, Path)):
        known, found = load_truth(truth, drop_bad=drop_bad)
        lost = {as_id(place["id"]) for problem in found if problem.kind == "image_of_bad" for place in problem.places}
    else:
        known = truth
    if isinstance(detections, (str, Path)):
        detections = _read(Path(detections))
    checked, have_masks = _checked(detections, known, source, lost)
    masks = bool(checked) and have_masks and _can_have_masks(known, source)
    if masks:
        _check_masks(checked, f"detections of {source}")
        _check_masks(known["annotations"], "annotations of the truth")
    result = coco_ap(known, checked, masks=masks)
    if out is not None:
        write_json(Path(out) / "results.json", {"scored": source, **results_to_dict({"": result})})
        record_dropped(out, {"truth": found}, anew=True)
    return result


def _read(path: Path) -> Sequence[Mapping[str, Any]]:
    raw = read_json(path, what="detections", limit=MOST_BYTES)
    if not isinstance(raw, list) or not all(isinstance(d, dict) for d in raw):
        form = "a list of {image_id, category_id, bbox, score}"
        raise UserError(f"{path} is not {form}", hint="give a COCO results file, and the truth as the other file")
    return raw


def _checked(
    detections: Sequence[Mapping[str, Any]], truth: CocoTruth, source: str, lost: Collection[CocoId | None]
) -> tuple[list[Detection], bool]:
    """Detections under ids as the truth writes them, without those on ``lost`` images; whether all have masks."""
    images = {image["id"] for image in truth["images"]} | set(lost)
    categories = {category["id"] for category in truth["categories"]}

    def refuse(what: str, key: str, hint: str, fits: Callable[[Any], bool]) -> None:
        bad = [(i, d) for i, d in enumerate(detections) if not fits(d.get(key))]
        if bad:
            index, first = bad[0]
            raise UserError(
                f"{source} has {len(bad)} of {len(detections)} detections {what}, first: {key} "
                f"{shown(first.get(key))} in number {index} (from 0)",
                hint=hint,
            )

    same = "give the truth that the detector ran on; ids are compared as they are written, '3' is not 3"
    refuse("of images that the truth has not", "image_id", same, lambda v: as_id(v) in images)
    classes = "give the truth's category ids, not the numbers of a detector's classes"
    refuse("of categories that the truth has not", "category_id", classes, lambda v: as_id(v) in categories)
    have_masks = all(_is_rle(d.get("segmentation")) for d in detections)
    boxless = have_masks and all(not d.get("bbox") for d in detections)
    if not boxless:
        refuse("whose bbox is not [x, y, width, height]", "bbox", "give four numbers, no size below 0", _is_box)
    refuse("whose score is not a number", "score", "give a number of each; higher is surer", is_number)
    keys = ("score", *([] if boxless else ["bbox"]), *(["segmentation"] if have_masks else []))
    checked = [
        {"image_id": as_id(d["image_id"]), "category_id": as_id(d["category_id"]), **{key: d[key] for key in keys}}
        for d in detections
        if as_id(d["image_id"]) not in lost
    ]
    return cast("list[Detection]", checked), have_masks


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and are_pixels(value) and min(value[2:]) >= 0


def _is_rle(value: Any) -> bool:
    """Whether a mask is as results files hold them: compressed."""
    return isinstance(value, dict) and isinstance(value.get("counts"), str) and isinstance(value.get("size"), list)


def _check_masks(entries: Sequence[Mapping[str, Any]], what: str) -> None:
    """Refuse masks that the evaluator would take memory without end for, or read beyond their end."""
    bad = [i for i, entry in enumerate(entries) if not is_drawable(entry.get("segmentation"))]
    if bad:
        first = shown(entries[bad[0]].get("segmentation"))
        raise UserError(
            f"a segmentation of the detections or of the truth cannot be read: of {len(entries)} {what} {len(bad)} "
            f"have damaged RLE or an endless outline, first: {first} in number {bad[0]} (from 0)",
            hint="give RLE whose runs fill an image of its size, in the truth also polygons within their images",
        )


def _can_have_masks(truth: CocoTruth, source: str) -> bool:
    """Whether the truth can say something of masks; if not, that is told."""
    without = sum(not a.get("segmentation") for a in truth["annotations"])
    if without or not all(image["height"] and image["width"] for image in truth["images"]):
        without_mask = f"{some(without, 'annotation')} of the truth {'has' if without == 1 else 'have'} no segmentation"
        why = without_mask if without else "its images have no sides"
        logger.warning("%s has masks, but %s: only boxes are scored", source, why)
        return False
    return True
