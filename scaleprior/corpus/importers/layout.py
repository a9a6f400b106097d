"""Class folders whose layout says that they are no classes: one holds all images, or they hold the classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from scaleprior.corpus.importers.doubts import Doubt
from scaleprior.corpus.importers.splits import LOOKED_INTO, WRAPPERS, folders_in, is_split, some
from scaleprior.corpus.importers.walk import walk_images
from scaleprior.corpus.magic import IMAGE_LIKE
from scaleprior.corpus.notes import Notes
from scaleprior.wording import parameter

__all__ = ["layout_doubts"]

_TABLE = f"a table by {parameter('labels', words='TABLE')}"


def layout_doubts(path: Path, classes: Sequence[str]) -> tuple[Doubt, ...]:
    """The doubt that the ``classes``, folders of ``path``, are images beside annotations, or groups of classes."""
    if len(classes) < 2:
        return ()
    return (_annotated(path, classes) if len(classes) <= LOOKED_INTO else ()) or _groups(path, classes)


def _annotated(path: Path, classes: Sequence[str]) -> tuple[Doubt, ...]:
    """``JPEGImages`` beside ``Annotations``: folders without an image are told apart, which ends at the first image."""
    full = [name for name in classes if _holds_an_image(path, name)]
    empty = [name for name in classes if name not in full]
    if not empty or not full or (len(full) > 1 and not any(name.lower() in WRAPPERS for name in full)):
        return ()
    would = f"the label{'s' if len(full) > 1 else ' of all images'} would be {some(full)}"
    inside = folders_in(path / full[0]) if len(full) == 1 else []
    within = f", in which lie the folders {some(inside)}" if inside else ""
    options = f"give {path / full[0]} if those are the labels, or {_TABLE}" if inside else f"give {_TABLE}"
    none = f"folder {empty[0]!r} of {path} holds" if len(empty) == 1 else f"folders {some(empty)} of {path} hold"
    return (Doubt(f"the {none} no images; {would}{within}", options),)


def _groups(path: Path, classes: Sequence[str]) -> tuple[Doubt, ...]:
    """``a/abbey``, ``Plants/400``: no image lies in the outer folders, and no two share the name of an inner one."""
    inner = {name: folders_in(path / name) for name in classes[:LOOKED_INTO]}
    names = [folder for folders in inner.values() for folder in folders]
    several = sum(len(folders) > 1 for folders in inner.values())
    if 2 * several < len(inner) or len(set(names)) < len(names) or any(is_split(n) for n in names):
        return ()
    if not all(inner.values()) or any(_has_image_files(path / name) for name in inner):
        return ()
    first = next(name for name, folders in inner.items() if len(folders) > 1)
    return (
        Doubt(
            f"the class folders of {path} hold no images but folders, such as {first!r} with {some(inner[first])}; "
            f"the labels would be the outer ones, {some(classes)}",
            f"give {_TABLE} if they are the inner ones",
        ),
    )


def _holds_an_image(path: Path, name: str) -> bool:
    return next(walk_images(path, name, Notes(), places={}, readable=False), None) is not None


def _has_image_files(folder: Path) -> bool:
    try:
        return any(os.path.splitext(entry.name)[1].lower() in IMAGE_LIKE for entry in os.scandir(folder))
    except OSError:
        return True  # the walk will say what is wrong with it
