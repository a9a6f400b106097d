"""Splits above or below class folders: ``train/cat/1.jpg`` or ``cat/train/1.jpg``, where ``train`` is no label."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from scaleprior.corpus.importers.doubts import Doubt
from scaleprior.corpus.importers.walk import hidden, is_folder
from scaleprior.errors import UserError
from scaleprior.wording import parameter

__all__ = [
    "LOOKED_INTO",
    "WRAPPERS",
    "choose_split",
    "files_of_split",
    "folders_in",
    "is_split",
    "missing_files",
    "some",
    "split_doubts",
]

_SPLIT = re.compile(
    r"(train|training|val|valid|validation|eval|dev|test|testing|holdout)([-_ ]?(set|split|data|\d{1,4}))?"
    r"|(fold|part)[-_ ]?\d{1,4}",
    re.I,
)
WRAPPERS = frozenset(
    {"images", "image", "imgs", "img", "jpegimages", "data", "dataset", "datasets", "raw", "labels", "annotations"}
)
"""Folders, in small letters, that hold what belongs to all classes."""

LOOKED_INTO = 20
"""Class folders whose inside is listed: enough to tell, and bounded for 20,000 of them."""

_NUMBERED = re.compile(r"(.*[-_.])(\d+)-of-(\d+)(\..*)")
_SHOWN = 5
_MOST_FILES = 100_000


def is_split(name: str) -> bool:
    """Whether a folder is called like a part of a data set: train, val, test, training_set, val2017, fold1, ..."""
    return _SPLIT.fullmatch(name) is not None


def split_in(stem: str) -> str:
    """The split in a file's name, as in ``imagenet-train-0001``; "" if there is none."""
    return next((word for word in re.split(r"[-_.\s]+", stem) if is_split(word)), "")


def files_of_split(files: Sequence[Path], split: str | None, what: str) -> tuple[list[Path], tuple[Doubt, ...]]:
    """The ``files`` whose names say ``split``, or without one all of them, and the doubt that several are meant.

    Raises:
        UserError: none of that split; names those there are.
    """
    found = {path: split_in(path.stem) or next((s for s in (path.parent.name,) if is_split(s)), "") for path in files}
    there = sorted(set(found.values()) - {""})
    if split is not None:
        chosen = [path for path, of in found.items() if of.lower() == split.lower()]
        if not chosen:
            listed = f"splits in their names are {some(there)}" if there else "their names say none"
            raise UserError(f"none of the {len(files):,} {what} is of {parameter('split')} {split!r}", hint=listed)
        return chosen, ()
    if len(there) < 2:
        return list(files), ()
    options = f"take one of them with {parameter('split', there[0])}"
    return list(files), (
        Doubt(f"the {len(files):,} {what} are of the splits {some(there)}; all would be read", options),
    )


def missing_files(files: Sequence[Path], split: str | None) -> tuple[Doubt, ...]:
    """The doubt that a download is incomplete: ``train-00001-of-00003`` without the other two."""
    numbered = {path.name: match for path in files if (match := _NUMBERED.fullmatch(path.name))}
    sets = {(match[1], match[3], match[4]) for match in numbered.values()}
    lacking = []
    for start, total, end in sorted(sets):
        if int(total) > _MOST_FILES or (split is not None and split_in(start).lower() not in ("", split.lower())):
            continue
        names = (f"{start}{k:0{len(total)}d}-of-{total}{end}" for k in range(int(total)))
        lacking += [name for name in names if name not in numbered]
    if not lacking:
        return ()
    are = "file is" if len(lacking) == 1 else "files are"
    what = f"{len(lacking):,} numbered {are} not there, such as {lacking[0]!r}"
    return (Doubt(what, "add them"),)


def choose_split(path: Path, split: str) -> Path:
    """The folder of a split: ``path/split``, or that below a folder that wraps all, such as ``path/dataset/split``.

    Raises:
        UserError: there is none; names the folders there are.
    """
    tried = path
    while True:
        if (tried / split).is_dir():
            return tried / split
        inside = folders_in(tried)
        if len(inside) != 1:
            break
        tried = tried / inside[0]
    found = folders_in(path) if len(folders_in(tried)) == 0 else folders_in(tried)
    raise UserError(
        f"{path} has no folder for {parameter('split')} {split!r}",
        hint=f"the folders there are {some(found)}" if found else "it has no folders",
    )


def split_doubts(path: Path, classes: Sequence[str]) -> tuple[Doubt, ...]:
    """The doubt that the ``classes``, folders of ``path``, or the folders in them, are splits and no labels."""
    if len(classes) == 1:  # a folder that wraps all, or one class
        inside = folders_in(path / classes[0])
        return (split_doubts(path / classes[0], inside) or _wrapped(path, classes[0], inside)) if inside else ()
    named = [name for name in classes if is_split(name)]
    wrapping = [name for name in classes if name.lower() in WRAPPERS]
    if len(named) >= 2 or len(named) + len(wrapping) == len(classes):
        return (_outer(path, classes, named),)
    return _inner(path, classes)


def _wrapped(path: Path, name: str, inside: Sequence[str]) -> tuple[Doubt, ...]:
    what = f"all images of {path} would have the one label {name!r}; in it lie the folders {some(inside)}"
    return (Doubt(what, f"give {path / name} if those are the labels"),)


def _outer(path: Path, classes: Sequence[str], named: Sequence[str]) -> Doubt:
    listed = {name: folders_in(path / name) for name in classes}
    inside = sorted(set().union(*listed.values()))
    below = f"; below them lie {some(inside)}" if inside else ""
    if named:
        options = f"take one of them with {parameter('split', named[0])}"
    else:
        table = parameter("labels", words="TABLE")
        options = f"give {path / _images_first(classes)[0]} if its folders are the labels, or a table by {table}"
    return Doubt(
        f"the folders {some(classes)} of {path} are called like parts of a data set, and would be its labels{below}",
        options,
    )


def _images_first(names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: name.lower() in ("labels", "annotations"))


def _inner(path: Path, classes: Sequence[str]) -> tuple[Doubt, ...]:
    """``cat/train``: the labels would be right, but what is held out would be learned from."""
    found = {name: [f for f in folders_in(path / name) if is_split(f)] for name in classes[:LOOKED_INTO]}
    if not found or not all(len(splits) >= 2 for splits in found.values()):
        return ()
    splits = sorted(set().union(*found.values()))
    return (
        Doubt(
            f"the class folders of {path} hold the folders {some(splits)}, called like parts of a data set; "
            "the images of all would be taken",
            f"take one of them with {parameter('split', splits[0])}",
        ),
    )


def folders_in(path: Path) -> list[str]:
    """Names of the folders, hidden ones left out, sorted."""
    try:
        return sorted(entry.name for entry in os.scandir(path) if not hidden(entry.name) and is_folder(entry))
    except OSError:
        return []


def some(names: Sequence[str]) -> str:
    """The first of the names, for messages."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
