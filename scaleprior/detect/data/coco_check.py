"""The checks of a COCO instances file: what cannot be used is refused or left out, what has a meaning is read as it.

What pycocotools and Detectron2 read is read: ids are whole numbers (``3.0`` is 3) or texts, ``null`` stands for a value
that is absent. Annotation ids mean nothing here. Boxes are [x, y, width, height] in pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scaleprior.detect.data.box_units import other_unit
from scaleprior.detect.data.coco_format import MOST_PIXELS, CocoAnnotation, CocoId, CocoImage, are_pixels
from scaleprior.detect.data.problems import (
    DROP_BAD,
    DropBad,
    Findings,
    Numbered,
    Unchecked,
    drop_hint,
    offender,
    place,
)
from scaleprior.detect.data.segmentation_check import MaskUse, check_segmentations
from scaleprior.errors import UserError
from scaleprior.files import is_number
from scaleprior.wording import in_short, parameter, shown

__all__ = ["CheckedCoco", "as_id", "check_coco"]

# Why an annotation cannot be used -> in words, and the key to show; the first that holds, in this order.
_FAULTS = {
    "category_unknown": ("annotations with unknown category ids", "category_id"),
    "image_unknown": ("annotations of unknown images", "image_id"),
    "box": ("annotations without a bbox of four finite numbers below 1e9", "bbox"),
    "iscrowd": ("annotations whose iscrowd is not 0 or 1", "iscrowd"),
    "ignore": ("annotations to ignore, which neither engine can; mark them as crowds", "ignore"),
    "area": ("annotations whose area is not a number", "area"),
    "box_size": ("boxes of zero or negative size", "bbox"),
}
_LARGEST_AREA = 1e10  # of an object that COCO's evaluation counts, in square pixels
_SIDES = ("height", "width")
_ID_TYPES = (int, str, float)
_NAMESAKES = "they stay different classes; results are listed by category id"
_LVIS = "as in LVIS, coco_url has the name: write its end as file_name (val2017/000000397133.jpg)"
_TEXTS = "ids are compared as they are written, '3' is not 3: write them alike everywhere"
_BEYOND = "training clips them, as Detectron2 does; evaluation takes them as they are, as pycocotools does"


@dataclass(frozen=True)
class CheckedCoco:
    """What of a file can be used, filled in.

    Attributes:
        categories: id -> name, ids ascending.
        images: by id, in the file's order; their sides are 0 where nobody asked for them and the file has none.
        annotations: in the file's order, with ids from 1.
        as_is: the file says just this: nothing was filled in, numbered anew or left out.
        described: what else the file says of categories, by id; {} where it was not to be kept.
    """

    categories: dict[CocoId, str]
    images: dict[CocoId, CocoImage]
    annotations: list[CocoAnnotation]
    as_is: bool
    described: Mapping[CocoId, Mapping[str, Any]] = field(default_factory=dict)


def check_coco(
    data: Mapping[str, Sequence[Unchecked]],
    findings: Findings,
    *,
    drop_bad: DropBad = "none",
    drop_empty_boxes: bool = False,
    segmentation: bool = False,
    keep_all: bool = False,
    masks: MaskUse | None = None,
    for_images: bool = True,
) -> CheckedCoco:
    """Check the three lists of an instances file against each other.

    Args:
        data: ``images``, ``annotations`` and ``categories``, lists of objects.
        findings: takes what is wrong; where it collects, what cannot be used is left out.
        drop_bad: see :func:`scaleprior.detect.load_coco`, as the next three.
        masks: what the segmentations are for, which are then checked and kept.
        for_images: the images will be read: their names and sides have to be there.

    Raises:
        UserError: no images or no categories; all else as ``findings`` decides.
    """
    if drop_bad not in DROP_BAD:
        hint = f"take one of {', '.join(DROP_BAD)}"
        raise UserError(f"{parameter('drop_bad')} (SCALEPRIOR.DROP_BAD) is {drop_bad!r}", hint=hint)
    for part in ("categories", "images"):
        if not data[part]:
            raise UserError(f"{findings.source} has no {part}", hint="give a COCO instances file")
    categories = _categories(data["categories"], findings)
    images = _images(data["images"], findings, for_images)
    entries = list(enumerate(data["annotations"]))
    # Against all that have an id: an annotation has no fault of its own where its image or category has one.
    known = [{as_id(e.get("id")) for e in data[part]} - {None} for part in ("categories", "images")]
    good, bad = _sorted_out(entries, known[0], known[1], findings, leave_out=drop_bad != "none", empty=drop_empty_boxes)
    good = [(i, e) for i, e in good if e["category_id"] in categories and e["image_id"] in images]
    boxes = np.array([e["bbox"] for _, e in good], dtype=np.float64).reshape(-1, 4)
    found = [images[e["image_id"]] for _, e in good]  # 3.0 finds 3
    sides = np.array([(image["width"], image["height"]) for image in found], dtype=np.float64).reshape(-1, 2)
    unit = other_unit(boxes, sides)
    if unit is not None:
        all_of_them = [offender(*entry, "bbox") for entry in good]
        findings.add(
            "error" if unit.certain and for_images else "warning", "box_unit", unit.what, all_of_them, hint=unit.hint
        )
    good, outside = _outside(good, boxes, sides, findings, leave_out=drop_bad != "none")
    bad += outside
    if masks is not None:
        good, maskless = check_segmentations(good, images, findings, use=masks, leave_out=drop_bad != "none")
        bad += maskless
    if drop_bad == "images" and bad:
        lost = {as_id(entry.get("image_id")) for _, entry in bad}
        places = [place("images", i, e) for i, e in enumerate(data["images"]) if as_id(e.get("id")) in lost]
        named = [(in_short(each.get("file_name", each["id"])), each) for each in places]
        findings.add("dropped", "image_of_bad", "images of such annotations, with all that is in them", named, hint="")
        images = {number: image for number, image in images.items() if number not in lost}
        good = [(i, e) for i, e in good if e["image_id"] not in lost]
    if not images or not categories:
        fault = next((p for p in findings.problems if p.severity in ("error", "dropped")), None)
        raise UserError(
            f"{findings.source} has nothing left that can be used" + (f": {fault.sentence}" if fault else ""),
            hint=(fault and fault.hint) or "repair the file",
        )
    _look_at(good, categories, findings)
    segmentation = segmentation or masks is not None
    return CheckedCoco(
        categories,
        images,
        [
            _filled_in(entry, number, segmentation or masks is not None, keep_all)
            for number, (_, entry) in enumerate(good, start=1)
        ],
        as_is=(len(images), len(categories)) == (len(data["images"]), len(data["categories"]))
        and all(type(e["id"]) in (int, str) for part in ("images", "categories") for e in data[part])
        and all(type(e.get(side)) is int for e in data["images"] for side in _SIDES)
        and len(good) == len(entries)
        and not any(problem.severity == "dropped" for problem in findings.problems)
        and _says_all([entry for _, entry in good]),
        described={as_id(e.get("id")) or 0: e for e in data["categories"]} if keep_all else {},
    )


def as_id(value: Any) -> CocoId | None:
    """An id as JSON gives it: a whole number, also as ``3.0``, or a text; None for what is none."""
    kind = type(value)
    if kind is int or (kind is str and value):
        return value
    return int(value) if kind is float and value.is_integer() else None


def _is_among(value: Any, ids: Collection[CocoId | None]) -> bool:
    """Whether ``value`` is one of ``ids``, as :func:`as_id` reads it: 3.0 finds 3, and so would ``true`` find 1."""
    return type(value) in _ID_TYPES and value in ids


def _categories(entries: Sequence[Unchecked], findings: Findings) -> dict[CocoId, str]:
    """id -> name, ids ascending."""
    fit = _with_ids("categories", entries, findings, "an id and a name", lambda e: isinstance(e.get("name"), str))
    names: dict[CocoId, str] = {}
    again, other = [], []
    for index, entry in fit:
        number = as_id(entry["id"])
        assert number is not None
        if number in names:
            same = names[number] == entry["name"]
            (again if same else other).append((shown(number), place("categories", index, entry)))
        else:
            names[number] = entry["name"]
    findings.add("error", "category_id_repeated", "category ids that occur twice, with different names", other)
    findings.add("warning", "category_repeated", "categories that occur twice; each counts once", again)
    places = {as_id(e["id"]): place("categories", i, e) for i, e in fit}
    count = Counter(names.values())
    namesakes = [(f"{shown(name)} of id {shown(i)}", places[i]) for i, name in names.items() if count[name] > 1]
    findings.add(
        "warning", "category_name_repeated", "categories whose name another has, too", namesakes, hint=_NAMESAKES
    )
    return dict(sorted(names.items()))  # type: ignore[type-var]  # all of one type, says _with_ids


def _images(entries: Sequence[Unchecked], findings: Findings, for_images: bool) -> dict[CocoId, CocoImage]:
    """By id, in the file's order."""
    what = "an id, a file_name, or a height and width above 0" if for_images else "an id"
    fit = _with_ids("images", entries, findings, what, lambda e: not for_images or _is_readable(e))
    images: dict[CocoId, CocoImage] = {}
    again, other = [], []
    for index, entry in fit:
        number = as_id(entry["id"])
        assert number is not None
        height, width = (_side(entry.get(side)) or 0 for side in _SIDES)
        name = entry.get("file_name")
        name = name if isinstance(name, str) else ""
        image: CocoImage = {"id": number, "file_name": name, "height": height, "width": width}
        if number in images:
            (again if images[number] == image else other).append((shown(number), place("images", index, entry)))
        else:
            images[number] = image
    findings.add("error", "image_id_repeated", "image ids that occur twice, for different images", other)
    findings.add("warning", "image_repeated", "images that occur twice; each counts once", again)
    count = Counter(image["file_name"] for image in images.values())
    shared = [
        (f"{shown(name)} of image {shown(e['id'])}", place("images", i, e))
        for i, e in fit
        if isinstance(name := e.get("file_name"), str) and name and count[name] > 1
    ]
    findings.add("warning", "file_name_repeated", "images whose file another has, too", shared)
    return images


def _with_ids(
    part: str, entries: Sequence[Unchecked], findings: Findings, what: str, fits: Callable[[Unchecked], bool]
) -> list[tuple[int, Unchecked]]:
    """Those with an id that ``fits``, numbered; all ids numbers, or all texts, because they are put in order."""
    numbered = list(enumerate(entries))
    fit = [(i, e) for i, e in numbered if as_id(e.get("id")) is not None and fits(e)]
    kept = {i for i, _ in fit}
    bad = [(shown(e, 80), place(part, i, e)) for i, e in numbered if i not in kept]
    lvis = part == "images" and any(isinstance(e.get("coco_url"), str) and "file_name" not in e for e in entries)
    hint = {"hint": _LVIS} if lvis else {}
    findings.add("error", f"{part}_entry", f"{part} without {what}", bad, **hint)
    texts = [(shown(e["id"]), place(part, i, e)) for i, e in fit if isinstance(e["id"], str)]
    if 0 < len(texts) < len(fit):
        findings.add("error", f"{part}_ids_mixed", f"{part} whose id is a text, and others whose id is a number", texts)
        fit = [(i, e) for i, e in fit if not isinstance(e["id"], str)]
    return fit


def _sorted_out(
    entries: Sequence[Numbered],
    categories: Collection[CocoId | None],
    images: Collection[CocoId | None],
    findings: Findings,
    *,
    leave_out: bool,
    empty: bool,
) -> tuple[list[Numbered], list[Numbered]]:
    """The annotations that can be used, and those that cannot.

    Args:
        leave_out: those are left out. empty: those without extent are in any case.
    """
    faults = [_fault(entry, categories, images) for _, entry in entries]
    for kind, (what, key) in _FAULTS.items():
        bad = [offender(*entry, key) for entry, fault in zip(entries, faults) if fault == kind]
        dropped = leave_out or (empty and kind == "box_size")
        ids = {"category_unknown": categories, "image_unknown": images}.get(kind, ())
        other = {type(value) for value in (*(place.get(key) for _, place in bad[:1]), *list(ids)[:1])}
        hint = _TEXTS if other == {int, str} else drop_hint()
        findings.add("dropped" if dropped else "error", kind, what, bad, hint="" if dropped else hint)
    good = [entry for entry, fault in zip(entries, faults) if fault is None]
    return good, [entry for entry, fault in zip(entries, faults) if fault is not None]


def _outside(
    good: Sequence[Numbered], boxes: np.ndarray, sides: np.ndarray, findings: Findings, *, leave_out: bool
) -> tuple[list[Numbered], list[Numbered]]:
    """What to keep, and what is left out because its box lies outside its image; tells those that reach out of it."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    known = (sides > 0).all(axis=1)
    visible = (np.minimum(high, sides) > np.maximum(low, 0)).all(axis=1)
    beyond = (np.maximum(-low, high - sides) > 1).any(axis=1)
    outside = [good[i] for i in np.flatnonzero(known & ~visible).tolist()]
    findings.add(
        "dropped" if leave_out else "warning",
        "box_outside",
        "boxes that lie outside their image, where nobody can find them",
        [offender(i, e, "bbox") for i, e in outside],
        hint="" if leave_out else drop_hint(),
    )
    reaching = [offender(*good[i], "bbox") for i in np.flatnonzero(known & visible & beyond).tolist()]
    what = "boxes that reach out of their image by more than a pixel"
    findings.add("warning", "box_beyond", what, reaching, hint=_BEYOND)
    if not leave_out:
        return list(good), []
    return [good[i] for i in np.flatnonzero(~known | visible).tolist()], outside


def _fault(entry: Unchecked, categories: Collection[CocoId | None], images: Collection[CocoId | None]) -> str | None:
    """The first of ``_FAULTS`` that an annotation has."""
    if not _is_among(entry.get("category_id"), categories):
        return "category_unknown"
    if not _is_among(entry.get("image_id"), images):
        return "image_unknown"
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not are_pixels(box):
        return "box"
    if entry.get("iscrowd") not in (None, 0, 1):
        return "iscrowd"
    if entry.get("ignore") not in (None, 0):
        return "ignore"
    area = entry.get("area")
    if area is not None and not is_number(area):
        return "area"
    return "box_size" if box[2] <= 0 or box[3] <= 0 else None


def _look_at(good: Sequence[Numbered], categories: Mapping[CocoId, str], findings: Findings) -> None:
    """Tell what is odd about annotations that are used as they are."""
    ids = [number if type(number := e.get("id")) in _ID_TYPES else None for _, e in good]
    repeated = {number for number, times in Counter(ids).items() if times > 1 and number is not None}
    twice = [offender(*entry, "id") for entry, number in zip(good, ids) if number in repeated] if repeated else []
    findings.add("warning", "annotation_id_repeated", "annotations whose id another has; numbered anew", twice, hint="")
    objects = [(e["image_id"], e["category_id"], *e["bbox"], e.get("iscrowd") or 0) for _, e in good]
    again = []
    if len(set(objects)) < len(objects):
        seen: set[tuple[Any, ...]] = set()
        for entry, what in zip(good, objects):
            if what in seen:
                again.append(offender(*entry, "bbox"))
            seen.add(what)
    findings.add("warning", "annotation_repeated", "annotations that repeat another: image, category and box", again)
    areas = [offender(i, e, "area") for i, e in good if not 0 <= (e.get("area") or 0) <= _LARGEST_AREA]
    findings.add("warning", "area_range", "areas outside 0 to 1e10, which COCO's AP passes over", areas)
    used = {e["category_id"] for _, e in good}
    unused = [
        (f"{shown(name)} of id {shown(number)}", {"part": "categories", "id": number})
        for number, name in categories.items()
        if number not in used
    ]
    findings.add("note", "category_unused", "categories without annotations", unused, hint="")


def _is_readable(entry: Unchecked) -> bool:
    name = entry.get("file_name")
    return isinstance(name, str) and name != "" and all(_side(entry.get(side)) for side in _SIDES)


def _side(value: Any) -> int | None:
    number = as_id(value)
    return number if isinstance(number, int) and 0 < number < MOST_PIXELS else None


def _says_all(entries: Sequence[Unchecked]) -> bool:
    """Whether evaluators can take the annotations as they stand; 0 is no id, because it means "none" to them."""
    ids = {e["id"] for e in entries if type(e.get("id")) is int}
    if len(ids) < len(entries) or 0 in ids:
        return False
    given = (int, str)
    return all(
        type(e["image_id"]) in given
        and type(e["category_id"]) in given
        and e.get("area") is not None
        and e.get("iscrowd") is not None
        and e.get("ignore", 0) is not None
        for e in entries
    )


def _filled_in(entry: Unchecked, number: int, segmentation: bool, keep_all: bool) -> CocoAnnotation:
    x, y, w, h = entry["bbox"]
    image, category, area = as_id(entry["image_id"]), as_id(entry["category_id"]), entry.get("area")
    assert image is not None
    assert category is not None
    annotation: CocoAnnotation = {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [float(x), float(y), float(w), float(h)],
        "area": float(w * h if area is None else area),
        "iscrowd": int(entry.get("iscrowd") or 0),
    }
    if segmentation and "segmentation" in entry:
        annotation["segmentation"] = entry["segmentation"]
    if keep_all:
        # null says nothing, and readers that ask whether a key is there take it for something
        others = {key: value for key, value in entry.items() if key not in annotation and value is not None}
        annotation.update(others)  # type: ignore[typeddict-item]  # keypoints, attributes, whatever a format adds
    return annotation
