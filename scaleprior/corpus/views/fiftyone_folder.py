"""A folder that FiftyOne imports without knowing us: ``fo.Dataset.from_dir(FOLDER, fo.types.FiftyOneDataset)``.

It is the plain form of FiftyOne's own format, which its importer recognises by a ``metadata.json`` without a version:
``samples.json`` holds the samples as ``fo.Sample.from_dict`` takes them. The form of databases' documents that FiftyOne
writes today belongs to a version of FiftyOne and has identities that only a database gives. Boxes are [x, y, width,
height] as shares of the upright image, from its upper left corner.
"""

from __future__ import annotations

import contextlib
import json
import mimetypes
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from scaleprior.corpus.images import ImageError, ImageFacts, inspect_image
from scaleprior.corpus.staging import staged_folder
from scaleprior.errors import UserError

__all__ = ["FiftyOneFolder", "classifications", "detections", "fiftyone_folder", "file_metadata", "image_metadata"]

_SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WebP": ".webp",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "GIF": ".gif",
    "AVIF": ".avif",
}
_HEAD = 65_536  # bytes that hold nearly every header


@contextlib.contextmanager
def fiftyone_folder(
    path: str | Path, *, name: str, info: Mapping[str, Any], overwrite: bool = False
) -> Iterator[FiftyOneFolder]:
    """Write such a folder; it appears complete or not at all.

    Args:
        path: the new folder.
        name: of the data set.
        info: goes into the data set's ``info``; its ``classes``, labels by field, become the data set's classes.
        overwrite: replace a folder that was written so.

    Raises:
        UserError: ``path`` exists.
        FailureError: disk full or another error of the file system.
    """
    with staged_folder(path, marker="samples.json", overwrite=overwrite, what="a FiftyOne data set") as folder:
        metadata = {"name": name, "media_type": "image", "info": dict(info)}
        (folder / "metadata.json").write_text(json.dumps(metadata, allow_nan=False), encoding="utf-8")
        with FiftyOneFolder(folder) as written:
            yield written


class FiftyOneFolder:
    """Takes samples one by one, and the images that have no file of their own. Made by :func:`fiftyone_folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._samples: IO[str] | None = None
        self.images = 0

    def __enter__(self) -> FiftyOneFolder:
        self._samples = open(self._folder / "samples.json", "w", encoding="utf-8")
        self._samples.write('{"samples": [')
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._samples is not None
        if error is None:
            self._samples.write("\n]}\n")
        self._samples.close()

    def add(self, sample: Mapping[str, Any]) -> None:
        """A sample: ``filepath``, ``tags``, and fields of any name."""
        assert self._samples is not None
        self._samples.write(",\n" if self.images else "\n")
        self._samples.write(json.dumps(sample, allow_nan=False))
        self.images += 1

    def keep(self, name: str, data: bytes) -> str:
        """Write an image into the folder; returns its ``filepath``.

        Args:
            name: relative, with ``/``. One that leads out of the folder is written under the number of its sample.
        """
        parts = name.replace("\\", "/").split("/")
        if os.path.isabs(name) or not all(part not in ("", ".", "..") for part in parts) or "\0" in name:
            parts = [f"{self.images:08d}{os.path.splitext(parts[-1])[1]}"]
        kind = mimetypes.guess_type(parts[-1])[0] or ""
        if not kind.startswith("image/"):  # by which FiftyOne tells images from other media
            facts = _facts(data)
            parts[-1] += _SUFFIXES.get(facts.kind, "") if facts else ""
        path = self._folder / "data" / Path(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return os.path.join("data", *parts)


def classifications(labels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A field of several labels of an image, each with ``label`` and attributes of any name."""
    return {"_cls": "Classifications", "classifications": [{"_cls": "Classification", **label} for label in labels]}


def detections(objects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A field of boxes, each with ``label``, ``bounding_box`` and attributes of any name."""
    return {"_cls": "Detections", "detections": [{"_cls": "Detection", **each} for each in objects]}


def image_metadata(data: bytes, size: int) -> dict[str, Any] | None:
    """The field ``metadata`` of an image of ``size`` bytes that begins with ``data``; None if the header says nothing.

    Width and height are of the upright image, as FiftyOne's own are.
    """
    facts = _facts(data)
    if facts is None:
        return None
    return {
        "_cls": "ImageMetadata",
        "size_bytes": size,
        "mime_type": mimetypes.guess_type(f"x{_SUFFIXES.get(facts.kind, '')}")[0],
        "width": facts.upright_width,
        "height": facts.upright_height,
    }


def file_metadata(path: str | Path) -> dict[str, Any] | None:
    """The field ``metadata`` of a file, from its beginning where that will do.

    Raises:
        UserError: it is not there, or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_HEAD)
            return image_metadata(head, size) or image_metadata(head + file.read(), size)
    except OSError as e:
        raise UserError(f"image {path} cannot be read: {e.strerror or e}", hint="check it") from e


def _facts(data: bytes) -> ImageFacts | None:
    try:
        return inspect_image(data)
    except ImageError:
        return None
