"""Importer for class folders: ``SRC/LABEL/any/depth/image.jpg`` has the label LABEL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from scaleprior.corpus.importers.doubts import NO_CLASSES, Doubt, alike, one_label
from scaleprior.corpus.importers.layout import layout_doubts
from scaleprior.corpus.importers.source import Source
from scaleprior.corpus.importers.splits import choose_split, folders_in, split_doubts
from scaleprior.corpus.importers.walk import hidden, is_folder, walk_images
from scaleprior.corpus.index import ImageRow
from scaleprior.corpus.label_space import LabelSpace
from scaleprior.corpus.magic import IMAGE_LIKE, compressed, unpacking
from scaleprior.corpus.names import spellings
from scaleprior.corpus.notes import Notes
from scaleprior.errors import UserError
from scaleprior.wording import parameter

__all__ = ["folder_source"]


def folder_source(path: Path, label_space: LabelSpace | None, *, split: str | None = None, readable: bool) -> Source:
    """Open a folder of class folders; without a label space the folder names are a flat one.

    Hidden files and files beside the class folders are not part of the source; they are counted.

    Args:
        split: take the images of this split alone, ``SRC/SPLIT/LABEL/...`` or ``SRC/LABEL/SPLIT/...``.
        readable: leave out images of formats that are not read (for builds that do not decode).

    Raises:
        UserError: there are no class folders, none of that split, or one that is not in the label space.
    """
    facts = {"path": str(path)}
    inner = ""
    if split is not None:
        facts["split"] = split
        path, inner = _of_split(path, split)
    found = folders_in(path)
    classes = [name for name in found if not inner or (path / name / inner).is_dir()]
    if not classes:
        _refuse(path)
    _refuse_names(path, classes)
    doubts = () if inner else split_doubts(path, classes) or one_label(classes, str(path), NO_CLASSES)
    doubts = doubts or layout_doubts(path, classes)
    doubts += alike(classes, f"class folders of {path}") + _lost_classes(path)
    if label_space is None:
        label_space = LabelSpace.flat(classes)
    labels = {name: _label(name, label_space) for name in classes}
    notes = Notes()

    def rows() -> Iterator[ImageRow]:
        notes.clear()
        _note_beside(path, notes)
        for name in found:
            if name not in labels:
                notes.warn(f"class folders without {inner!r}", name)
        places: dict[tuple[int, int], str] = {}
        for name in classes:
            below = f"{name}/{inner}" if inner else name
            empty = True
            for key, size in walk_images(path, below, notes, places=places, readable=readable):
                empty = False
                yield ImageRow(key, (labels[name],), "", key, 0, size)
            if labels[name] != name:
                notes.warn("class folders in another Unicode normalisation than their label (matched)", name)
            if empty:
                notes.warn("class folders without images", name)

    return Source("folders", path, label_space, rows, facts=facts, doubts=doubts, notes=notes)


def _label(name: str, label_space: LabelSpace) -> str:
    """The label that a folder is called after; a Mac may have stored its name in another Unicode normalisation.

    Raises:
        UserError: it is not in the label space.
    """
    known = [form for form in (name, *spellings(name)) if form in label_space]
    if not known:
        label_space.index(name)  # which says so
    return known[0]


def _of_split(path: Path, split: str) -> tuple[Path, str]:
    """Where the class folders of a split lie, and the folder in each of them that is the split."""
    classes = folders_in(path)
    if not (path / split).is_dir() and any((path / name / split).is_dir() for name in classes) and len(classes) > 1:
        return path, split
    return choose_split(path, split), ""


def _refuse(path: Path) -> None:
    """Say why there are no class folders: what lies there instead."""
    names = sorted(entry.name for entry in os.scandir(path) if not hidden(entry.name))
    archives = [name for name in names if compressed(path / name)]
    if archives:
        raise UserError(
            f"{path} holds {archives[0]!r}, which is compressed, and no class folders",
            hint=f"unpack it: {unpacking(path / archives[0])}",
        )
    images = sum(os.path.splitext(name)[1].lower() in IMAGE_LIKE for name in names)
    lie = f"; {images:,} images lie in it without a label" if images else ""
    raise UserError(
        f"{path} has no class folders, no tar files with labels, and no labels.csv{lie}",
        hint=f"put each class' images in a folder named after it, or pass {parameter('labels', words='TABLE')}",
    )


def _refuse_names(path: Path, classes: list[str]) -> None:
    for name in classes:
        try:
            name.encode("utf-8")
        except UnicodeEncodeError as e:
            raise UserError(f"the folder name {name!r} in {path} is not UTF-8", hint="rename the folder") from e


def _lost_classes(path: Path) -> tuple[Doubt, ...]:
    """Links beside the class folders that lead nowhere: classes of a disk that is not mounted, say."""
    lost = sorted(e.name for e in os.scandir(path) if e.is_symlink() and not hidden(e.name) and not os.path.exists(e))
    if not lost:
        return ()
    target = os.readlink(path / lost[0])
    what = f"{len(lost):,} links in {path} lead nowhere and would be left out, first: {lost[0]!r} to {target!r}"
    return (Doubt(what, "mount or copy what they lead to"),)


def _note_beside(path: Path, notes: Notes) -> None:
    """Count the files beside the class folders, which have no label."""
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        if is_folder(entry):
            if hidden(entry.name):
                notes.warn("hidden folders", entry.name)
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_LIKE:
            notes.warn("images beside the class folders (they have no label)", entry.name)
        else:
            notes.other(entry.name)
