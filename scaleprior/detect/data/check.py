"""Everything that is wrong with detection sets, found before anything is trained on them.

Looked at are the JSON files, the header of every image, and the sets against each other. What a set said is kept in
ScalePrior's folder while its JSON is the same file (``headers.py`` does so for the images).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from scaleprior._version import __version__
from scaleprior.checking import CheckReport, Finding
from scaleprior.detect.data.coco import read_instances, truth_of
from scaleprior.detect.data.coco_check import check_coco
from scaleprior.detect.data.coco_format import MOST_BYTES
from scaleprior.detect.data.headers import Header, file_identity, read_headers
from scaleprior.detect.data.image_root import ImageRoot, open_root
from scaleprior.detect.data.image_sizes import EXIF_HINT, SIZE_HINT, describe_size, is_stored_size
from scaleprior.detect.data.problems import DropBad, Findings, Problem
from scaleprior.detect.data.segmentation_check import MaskUse
from scaleprior.detect.data.views.statistics import truth_statistics
from scaleprior.errors import ScalePriorError
from scaleprior.files import write_text
from scaleprior.home import home_folder
from scaleprior.pages.numbers import some
from scaleprior.parsing import read_json
from scaleprior.progress import ProgressFn
from scaleprior.wording import counted

__all__ = ["SetFiles", "check_sets"]

logger = logging.getLogger(__name__)

_SCHEMA = 4


class SetFiles(NamedTuple):
    """A set to check.

    Attributes:
        role: "train" or "val".
        drop_empty_boxes, drop_bad, masks: see ``load_coco``.
    """

    role: str
    name: str
    json: str
    root: str
    drop_empty_boxes: bool = False
    drop_bad: DropBad = "none"
    masks: MaskUse | None = None


@dataclass(frozen=True)
class _Summary:
    """What the checks of a set need to know of its JSON.

    Attributes:
        names, heights, widths: of the images, as the JSON has them.
        objects: annotations that are no crowds.
        refused: the JSON has annotations, and all are among the problems.
        problems: of the JSON itself, as a :class:`Finding` takes them.
        statistics: of the JSON itself, as ``DetectionStatistics.to_dict`` has them, and ``sentences``.
    """

    names: list[str]
    heights: list[int]
    widths: list[int]
    class_names: list[str]
    category_ids: list[int | str]
    boxes: int
    objects: int
    refused: bool
    problems: list[dict[str, Any]]
    statistics: dict[str, Any]

    @classmethod
    def read(cls, path: Path, files: SetFiles) -> _Summary:
        problems: list[Problem] = []
        findings = Findings(str(path), into=problems)
        data = read_instances(path, files.name)
        checked = check_coco(
            data, findings, drop_empty_boxes=files.drop_empty_boxes, drop_bad=files.drop_bad, masks=files.masks
        )
        images = checked.images.values()
        statistics = truth_statistics(files.name, truth_of(checked, list(images)))
        return cls(
            names=[image["file_name"] for image in images],
            heights=[image["height"] for image in images],
            widths=[image["width"] for image in images],
            class_names=list(checked.categories.values()),
            category_ids=list(checked.categories),
            boxes=len(checked.annotations),
            objects=sum(not annotation["iscrowd"] for annotation in checked.annotations),
            refused=bool(data["annotations"]) and any(problem.severity == "error" for problem in problems),
            problems=[_as_finding(problem) for problem in problems if problem.severity != "note"],
            statistics={"sentences": statistics.sentences(), **statistics.to_dict()},
        )


def _as_finding(problem: Problem) -> dict[str, Any]:
    return {
        "kind": problem.kind,
        "what": f"{problem.source} has {counted(problem.count, problem.what)}"
        + (", left out" if problem.severity == "dropped" else ""),
        "count": problem.count,
        "examples": [problem.first],
        "hint": problem.hint or ("repair the file" if problem.severity == "error" else ""),
        "stops": problem.severity == "error",
    }


class _Images(NamedTuple):
    files: SetFiles
    root: ImageRoot
    headers: Mapping[str, Header]


def check_sets(
    sets: Sequence[SetFiles],
    *,
    same_ids: bool = False,
    detectron2: bool = False,
    progress: ProgressFn | None = None,
) -> tuple[CheckReport, int | None]:
    """Look at the sets of a run, those to train on and those to evaluate on.

    Returns:
        What was found, and how many classes the first set has; None where it cannot be read.

    Args:
        same_ids: the category ids, too, have to be the same in all sets, as the torchvision engine wants it.
        detectron2: Detectron2 will read the images, which does not take all as they are meant.
        progress: called with (images done, images in all, {}) for each set.
    """
    report = CheckReport()
    summaries: list[tuple[SetFiles, _Summary]] = []
    images: list[_Images] = []
    for files in dict.fromkeys(sets):
        with report.collecting("annotations"):
            summary = _summary(files)
            summaries.append((files, summary))
            root = open_root(files.root)
            headers, read = read_headers(root, summary.names, progress=progress)
            report.add(*(Finding(**{**each, "examples": tuple(each["examples"])}) for each in summary.problems))
            report.statistics[f"{files.role} {files.name}"] = {**summary.statistics, **_formats(headers)}
            report.add(*_image_findings(files, summary, headers, root), *_object_findings(files, summary))
            if detectron2:
                report.add(*_misread_findings(files, headers))
            images.append(_Images(files, root, headers))
            report.facts[f"{files.role} {files.name}"] = (
                f"{some(len(summary.names), 'image')}, {some(len(summary.class_names), 'class', 'classes')}, "
                f"{some(summary.boxes, 'box', 'boxes')}; {some(read, 'image header')} read, "
                f"{len(headers) - read:,} known"
            )
    report.add(*_category_findings(summaries, same_ids=same_ids), *_shared_images(images))
    first = [summary for files, summary in summaries if files == sets[0]]
    return report, len(first[0].class_names) if first else None


def _formats(headers: Mapping[str, Header]) -> dict[str, Any]:
    """What the headers of all images say, as a statistic of the set."""
    kinds = Counter(header.kind for header in headers.values() if header.kind)
    turned = sum(header.image.turned for header in headers.values() if header.kind)
    return {"headers": {"formats": dict(kinds.most_common()), "turned": turned}}


def _summary(files: SetFiles) -> _Summary:
    """Of the JSON, read anew only where it has changed.

    Raises:
        UserError: it cannot be read at all.
    """
    path = os.path.abspath(os.path.expanduser(os.path.expandvars(files.json)))
    marks = [_SCHEMA, __version__, path, files.drop_empty_boxes, files.drop_bad, files.masks, file_identity(path)]
    name = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()
    kept = home_folder() / "checks" / f"set-{name[:32]}.json"
    try:
        raw = read_json(kept, limit=MOST_BYTES)
        if raw["marks"] == json.loads(json.dumps(marks)):
            return _Summary(**raw["summary"])
    except (ValueError, KeyError, TypeError):  # UserError is the first of them
        pass  # nothing was kept, or nothing of use
    summary = _Summary.read(Path(path), files)
    try:
        write_text(kept, json.dumps({"marks": marks, "summary": asdict(summary)}), durable=False)
    except ScalePriorError as e:  # the next check reads again
        logger.info("what was read of %s is not kept: %s", path, e)
    return summary


def _image_findings(
    files: SetFiles, summary: _Summary, headers: Mapping[str, Header], root: ImageRoot
) -> list[Finding]:
    absent, unusable, differing, turned = [], [], [], []
    for name, height, width in zip(summary.names, summary.heights, summary.widths):
        header = headers[name]
        if header.absent:
            absent.append(name)
        elif header.problem:
            unusable.append(f"{name}: {header.problem}")
        elif (header.image.upright_height, header.image.upright_width) != (height, width):
            offenders = turned if is_stored_size(header.image, height, width) else differing
            offenders.append(describe_size(name, header.image, height, width))
    if absent and (near := root.near(absent[0])):  # of the first alone: it lists a folder
        absent[0] += f" ({near})"
    found = []
    for kind, things, offenders, hint in (
        ("image_missing", f"images that are not at {files.root}", absent, "repair the file, or copy the images"),
        ("image_damaged", "images that cannot be used", unusable, "replace the files"),
        ("image_size", "images of another size", differing, SIZE_HINT),
        ("image_turned", "images of another size once EXIF has turned them", turned, EXIF_HINT),
    ):
        if offenders:
            found.append(Finding.of(kind, files.json, things, offenders, hint=hint))
    return found


def _misread_findings(files: SetFiles, headers: Mapping[str, Header]) -> list[Finding]:
    """Images that ``scaleprior.d2.data.images`` refuses, because Detectron2 would change their pixels."""
    sound = {name: header for name, header in headers.items() if header.kind}
    deep = [name for name, header in sound.items() if header.deep]
    twice = [name for name, header in sound.items() if header.kind == "TIFF" and header.image.turned]
    things = "images whose grey values have 16 bits, which Detectron2 cuts off at 255"
    hint = "write them with 8 bits, or use the torchvision engine, which scales them"
    found = [Finding.of("image_deep", files.json, things, deep, hint=hint)] if deep else []
    things = "TIFF images with an orientation, by which Detectron2 turns them twice"
    hint = "save them upright, or use the torchvision engine, which turns them once"
    return found + ([Finding.of("image_turned_twice", files.json, things, twice, hint=hint)] if twice else [])


def _object_findings(files: SetFiles, summary: _Summary) -> list[Finding]:
    if summary.objects or summary.refused:  # what is wrong with the objects is said already
        return []
    if files.role == "train":
        return [Finding("nothing_to_train", f"no image of {files.json} has a box to train on", hint="check the file")]
    return [
        Finding("nothing_to_find", f"{files.json} has no objects, so AP is undefined", hint="give a set with boxes")
    ]


def _category_findings(summaries: Sequence[tuple[SetFiles, _Summary]], *, same_ids: bool) -> list[Finding]:
    """Every set against the first: class i has to mean the same in all."""
    found = []
    for files, summary in summaries[1:]:
        first, other = summaries[0][1], summary
        pair = f"{summaries[0][0].json} and {files.json}"
        hint = "use sets with the same categories, in one order of their ids"
        if set(first.class_names) != set(other.class_names):
            only = [
                f"{name!r} only in {where}"
                for where, a, b in ((summaries[0][0].json, first, other), (files.json, other, first))
                for name in a.class_names
                if name not in b.class_names
            ]
            found.append(Finding("categories", f"{pair} have different categories", len(only), tuple(only[:5]), hint))
        elif first.class_names != other.class_names:
            number = next(i for i, (a, b) in enumerate(zip(first.class_names, other.class_names)) if a != b)
            example = f"class {number} is {first.class_names[number]!r} and {other.class_names[number]!r}"
            found.append(
                Finding("category_order", f"{pair} have their categories in another order", 1, (example,), hint)
            )
        elif first.category_ids != other.category_ids:
            pairs = zip(first.class_names, first.category_ids, other.category_ids)
            differing = [f"{name!r} is {a} and {b}" for name, a, b in pairs if a != b]
            what = f"{pair} have different ids for {counted(len(differing), 'categories')}"
            found.append(Finding("category_ids", what, len(differing), tuple(differing[:5]), hint, stops=same_ids))
    return found


def _shared_images(images: Sequence[_Images]) -> list[Finding]:
    """Images that are trained on and evaluated on: the same file, or the same bytes under the same name."""
    found = []
    for train in (each for each in images if each.files.role == "train"):
        for val in (each for each in images if each.files.role == "val"):
            if os.path.abspath(train.files.json) == os.path.abspath(val.files.json):
                what = f"{val.files.json} is trained on and evaluated on"
                found.append(
                    Finding("shared_images", what, hint="AP of it says nothing about other images", stops=False)
                )
                continue
            shared = _shared(train, val)
            if shared:
                things = f"images that {train.files.json} has, too"
                hint = "AP of images that were trained on says nothing about others"
                found.append(Finding.of("shared_images", val.files.json, things, shared, hint=hint, stops=False))
    return found


def _shared(train: _Images, val: _Images) -> list[str]:
    """Names of ``val``. The same name and the same number of bytes make a candidate, whose bytes then tell."""
    if train.root.where == val.root.where:
        return [name for name, header in val.headers.items() if name in train.headers and not header.absent]
    by_mark: dict[tuple[str, int], list[str]] = {}
    for name, header in train.headers.items():
        if not header.problem and not header.absent:
            by_mark.setdefault((Path(name).name, header.size), []).append(name)
    shared = []
    for name, header in val.headers.items():
        twins = by_mark.get((Path(name).name, header.size), []) if header.kind else []
        if twins and any(train.root.read(twin) == val.root.read(name) for twin in twins):
            shared.append(name)
    return shared
