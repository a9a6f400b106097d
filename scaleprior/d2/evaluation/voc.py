"""Data sets in PASCAL VOC's format, as Detectron2's loader and its evaluator read them, checked before either does."""

from __future__ import annotations

import logging
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection
from pathlib import Path
from typing import Any

from scaleprior.d2.evaluation.builtin_root import missing_place
from scaleprior.errors import UserError
from scaleprior.wording import counted

__all__ = ["check_voc", "listed_files"]

logger = logging.getLogger(__name__)

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def check_voc(name: str, metadata: Any, *, evaluated: bool) -> None:
    """Refuse a set registered by ``register_pascal_voc`` that Detectron2 could not read.

    Every annotation file is looked at: one that lacks what only the evaluator reads (``pose``, ``truncated``,
    ``difficult``, whole corners) would be found after the training.

    Args:
        metadata: with ``dirname``, ``split``, ``year`` and ``thing_classes``.

    Raises:
        UserError: names the first thing that is missing or cannot be read, and how many there are.
    """
    if "://" in metadata.dirname:
        return  # Detectron2 fetches it
    folder = Path(os.path.expanduser(metadata.dirname))
    if evaluated and metadata.year not in (2007, 2012):
        raise UserError(
            f"data set {name} is of the year {metadata.year!r}",
            hint="register it with 2007, whose AP has 11 points, or 2012",
        )
    trees, faults = {}, []
    for number in _listed(name, folder, metadata.split):
        path = folder / "Annotations" / f"{number}.xml"
        try:
            trees[path] = ElementTree.parse(path)
        except (ElementTree.ParseError, OSError) as e:
            faults.append(f"{path}: {' '.join(str(e).split())}")
            continue
        fault = _fault(trees[path], metadata.thing_classes, evaluated=evaluated)
        if fault:
            faults.append(f"{path}: {fault}")
    if faults:
        what = counted(len(faults), "annotation files that cannot be used")
        raise UserError(f"data set {name}: {what}, first: {faults[0]}", hint="repair them")
    found = {each.findtext("name") for tree in trees.values() for each in tree.findall("object")}
    absent = [label for label in metadata.thing_classes if label not in found]
    if evaluated and absent:
        what = counted(len(absent), "categories without objects")
        logger.warning("data set %s has %s, first: %s; each is a zero in Detectron2's AP", name, what, absent[0])


def listed_files(name: str, metadata: Any) -> list[Path]:
    """The list of images and their annotation files.

    Raises:
        UserError: something is missing.
    """
    folder = Path(os.path.expanduser(metadata.dirname))
    ids = _listed(name, folder, metadata.split)
    return [
        folder / "ImageSets" / "Main" / f"{metadata.split}.txt",
        *(folder / "Annotations" / f"{i}.xml" for i in ids),
    ]


def _listed(name: str, folder: Path, split: str) -> list[str]:
    """The names of the split's images, all of whose files are there."""
    listed = folder / "ImageSets" / "Main" / f"{split}.txt"
    parts = {"Annotations": ".xml", "JPEGImages": ".jpg"}
    for what, place in (
        ("list of images", listed),
        ("annotations", folder / "Annotations"),
        ("images", folder / "JPEGImages"),
    ):
        if not place.exists():
            raise missing_place(name, what, str(place))
    ids = [line.strip() for line in listed.read_text(encoding="utf-8").split("\n") if line.strip()]
    odd = [line for line in ids if len(line.split()) > 1]
    if odd or len(ids) < 2:  # numpy.loadtxt makes something else of these
        said = f"has the line {odd[0]!r}" if odd else f"lists {counted(len(ids), 'images')}"
        raise UserError(f"data set {name}: {listed} {said}", hint="Detectron2 reads one name a line, and 2 at least")
    for part, suffix in parts.items():
        there = set(os.listdir(folder / part))
        gone = [f"{number}{suffix}" for number in ids if f"{number}{suffix}" not in there]
        if gone:
            what = counted(len(gone), f"files that {listed.name} lists and that are not in {part}")
            raise UserError(f"data set {name}: {what}, first: {folder / part / gone[0]}", hint="get them again")
    return ids


def _fault(tree: ElementTree.ElementTree, classes: Collection[str], *, evaluated: bool) -> str:
    """What is wrong with an annotation file; "" if nothing is."""
    for side in ("height", "width"):
        if not _is_whole(tree.findtext(f"./size/{side}")):
            return f"its size has no {side}"
    for number, each in enumerate(tree.findall("object"), start=1):
        label = each.findtext("name")
        if label not in classes:
            return f"object {number} is a {label!r}, which is not among the {len(classes)} classes"
        box = each.find("bndbox")
        corners = [None if box is None else box.findtext(corner) for corner in _CORNERS]
        if not all(_is_number(corner) for corner in corners):
            return f"object {number} has the box {corners}"
        if not evaluated:
            continue
        if not all(_is_whole(corner) for corner in corners):
            return f"object {number} has the box {corners}; Detectron2's evaluation reads whole corners only"
        if each.find("pose") is None:
            return f"object {number} has no pose, which Detectron2's evaluation reads"
        for flag in ("truncated", "difficult"):
            if not _is_whole(each.findtext(flag)):
                return f"object {number} says {flag} {each.findtext(flag)!r}, which Detectron2's evaluation reads"
    return ""


def _is_whole(text: str | None) -> bool:
    return _reads(int, text)


def _is_number(text: str | None) -> bool:
    return _reads(float, text)


def _reads(kind: Any, text: str | None) -> bool:
    try:
        kind(text)
    except (TypeError, ValueError):
        return False
    return True
