"""Importer for class folders: ``SRC/LABEL/any/depth/image.jpg`` has the label LABEL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from scaleprior.corpus.images import IMAGE_SUFFIXES
from scaleprior.corpus.importers.doubts import one_label
from scaleprior.corpus.importers.source import Source
from scaleprior.corpus.index import ImageRow
from scaleprior.corpus.label_space import LabelSpace
from scaleprior.errors import UserError
from scaleprior.wording import parameter

__all__ = ["folder_source"]


def folder_source(path: Path, label_space: LabelSpace | None, *, by_suffix: bool) -> Source:
    """Open a folder of class folders; without a label space the folder names are a flat one.

    Hidden files and files beside the class folders are not part of the source.

    Args:
        by_suffix: take only files with an image's suffix (for builds that do not decode).

    Raises:
        UserError: there are no class folders, or one is not in the label space.
    """
    classes = sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UserError(
            f"{path} has no class folders, no tar files with labels, and no labels.csv",
            hint=f"put each class' images in a folder named after it, or pass {parameter('labels', words='TABLE')}",
        )
    doubts = one_label(classes, str(path))
    if label_space is None:
        label_space = LabelSpace.flat(classes)
    for name in classes:
        label_space.index(name)

    def rows() -> Iterator[ImageRow]:
        for name in classes:
            for folder, below, files in os.walk(path / name):
                below[:] = sorted(entry for entry in below if not entry.startswith("."))
                relative = Path(folder).relative_to(path).as_posix()
                for file in sorted(files):
                    if file.startswith(".") or (by_suffix and Path(file).suffix.lower() not in IMAGE_SUFFIXES):
                        continue
                    key = f"{relative}/{file}"
                    yield ImageRow(key, (name,), "", key, 0, _size(os.path.join(folder, file)))

    return Source("folders", path, label_space, rows, facts={"path": str(path)}, doubts=doubts)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0  # a dangling link: reading it while verifying says why
