"""COCO 2014's val split in two as Sun et al. 2017 did: 8,000 images to evaluate on (minival*), the others to train on.

Which images those are is a list that the user supplies; ScalePrior ships none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from scaleprior.backbones.zoo.cache import ZooHome
from scaleprior.detect.data.coco_check import as_id
from scaleprior.detect.data.coco_format import MOST_BYTES
from scaleprior.errors import UserError
from scaleprior.files import file_sha256, write_text
from scaleprior.parsing import is_regular, open_regular, parse_json, read_json, read_text
from scaleprior.wording import counted, one_line, shown

__all__ = ["IDS_FILE", "MINIVAL_SETS", "read_image_ids", "split_val2014"]

logger = logging.getLogger(__name__)

IDS_FILE = "minival_8k_ids.txt"  # in coco/annotations/, unless SCALEPRIOR.MINIVAL_IDS says otherwise
# name -> whether it holds the listed images (or all others)
MINIVAL_SETS = {"coco_2014_minival_8k": True, "coco_2014_valminusminival_8k": False}
_IMAGES = 8000  # of the paper's minival*


def split_val2014(name: str, annotations: Path, ids_file: Path) -> Path:
    """The JSON of a set of ``MINIVAL_SETS``, made from the whole val2014 and kept in ScalePrior's cache.

    It lies in ``$SCALEPRIOR_HOME/coco/KEY/``; KEY follows from the content of both files, so a changed list is another
    file. Images and annotations are COCO's own entries, in COCO's order.

    Args:
        name: which of the two.
        annotations: ``instances_val2014.json``.
        ids_file: see :func:`read_image_ids`.

    Raises:
        UserError: no list (says where one comes from), a broken file, or a list that does not fit val2014.
    """
    if not os.path.exists(ids_file):
        raise UserError(
            f"{name} needs the list of COCO 2014's minival images, and there is none at {ids_file}",
            hint="write the image ids there, one a line, or set SCALEPRIOR.MINIVAL_IDS to their file; a list of about "
            "8,000 ids of val2014 is published as research/object_detection/data/mscoco_minival_ids.txt in "
            "github.com/tensorflow/models",
        )
    ids = read_image_ids(ids_file)
    open_regular(annotations, what="annotations of COCO 2014's val").close()
    listed = hashlib.sha256(",".join(map(str, sorted(ids))).encode()).hexdigest()
    key = hashlib.sha256(f"{file_sha256(annotations)} {listed}".encode()).hexdigest()
    target = ZooHome.current().root / "coco" / key / f"{name}.json"
    if not is_regular(target):
        whole = read_json(annotations, what="annotations of COCO 2014's val", limit=MOST_BYTES)
        part = _part(whole, annotations, set(ids), ids_file, listed=MINIVAL_SETS[name])
        try:
            text = json.dumps(part)
        except RecursionError as e:
            raise UserError(f"{annotations} is nested too deeply to be written", hint="get COCO's own again") from e
        write_text(target, text)
        logger.info("%s: %s", name, target)
    _tell_size(ids_file, len(ids))
    return target


@cache  # a run asks for its sets several times
def _tell_size(ids_file: Path, images: int) -> None:
    if images != _IMAGES:
        logger.warning("%s lists %d images, the paper's minival* has %d", ids_file, images, _IMAGES)


def read_image_ids(path: Path) -> list[int]:
    """The image ids in a file, in its order: a JSON list of integers, or integers separated by blanks or commas.

    Raises:
        UserError: unreadable, empty, something that is not an integer, or an id that occurs twice.
    """
    what = "list of image ids"
    text = read_text(path, what=what).strip()
    words = parse_json(text, where=f"{what} {path}") if text.startswith("[") else re.split(r"[\s,]+", text)
    found = [_image_number(word) for word in words]
    bad = [word if isinstance(word, str) else shown(word, 40) for word, number in zip(words, found) if number is None]
    if not text or not words:
        raise UserError(f"list of image ids {path} is empty", hint="give one id of val2014 a line")
    if bad:
        raise UserError(
            f"{path} has {counted(len(bad), 'entries that are no image id')}, first: {shown(bad[0], 40)}",
            hint="give one id of val2014 a line, or a JSON list of them",
        )
    ids = [number for number in found if number is not None]
    twice = [i for i, times in Counter(ids).items() if times > 1]
    if twice:
        what = counted(len(twice), "image ids that occur twice")
        raise UserError(f"{path} has {what}, first: {twice[0]}", hint="list each once")
    return ids


def _image_number(word: Any) -> int | None:
    """An id of val2014, which are whole numbers: as text, or as JSON has it, also ``3.0``; None for anything else."""
    value = as_id(word)
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"\d{1,18}", value, re.ASCII) else None
    return None if value is None or value < 0 else value


def _part(whole: Any, source: Path, ids: set[int], ids_file: Path, *, listed: bool) -> dict[str, Any]:
    """The listed images of ``whole``, or the others, with their annotations."""
    try:
        known = {image["id"] for image in whole["images"]}
        absent = sorted(ids - known)
        images = [image for image in whole["images"] if (image["id"] in ids) == listed]
        annotations = [a for a in whole["annotations"] if (a["image_id"] in ids) == listed]
    except (KeyError, TypeError) as e:
        raise UserError(f"{source} is not a COCO instances file: {one_line(e)}", hint="get COCO's own again") from e
    if absent:
        raise UserError(
            f"{ids_file} lists {counted(len(absent), 'images that are not in')} {source}, first: {absent[0]}",
            hint="give ids of val2014's images",
        )
    if not images:
        raise UserError(f"{ids_file} lists every image of {source}", hint="list those to evaluate on only")
    return {**whole, "images": images, "annotations": annotations}
