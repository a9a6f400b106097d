"""The images of a detection set as a network takes them: from memory, from the machine's disk, or decoded."""

from __future__ import annotations

import importlib.metadata
import logging
from functools import cache, partial
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from scaleprior._version import __version__
from scaleprior.corpus.images import ImageError, decode, inspect_image
from scaleprior.detect.data.coco import DetectionSet
from scaleprior.detect.data.image_sizes import EXIF_HINT, SIZE_HINT, describe_size, is_stored_size
from scaleprior.detect.data.oddities import Oddities
from scaleprior.detect.data.store.room import Room
from scaleprior.detect.data.store.stored import StoredImages, names_digest, source_of
from scaleprior.detect.data.transforms import paste, resize, resized_shape
from scaleprior.errors import UserError

__all__ = ["ImageStore"]

logger = logging.getLogger(__name__)

_DECODERS = ("simplejpeg", "Pillow")
_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")

Size = tuple[int, int]
"""Limits of the shorter and of the longer side; see ``transforms.resized_shape``."""


class ImageStore:
    """Decoded images of a set, kept in memory while they fit, or on the disk of the machine.

    What comes from where changes no bit. Images that are out of order without harm to their pixels are never taken from
    the disk, so that every run tells of them, and a strict one refuses them.

    Args:
        order: "RGB" or "BGR".
        cache_bytes: what to keep in memory at most. Nothing is evicted: the first images stay, since every epoch visits
            all in another order and any replacement would only exchange one hit for another. What the disk holds is not
            kept: its pages are in memory already, once for all processes.
        strict: refuse images that are out of order without harm to their pixels.
        room: on the disk, shared by all processes.

    Attributes:
        oddities: of such images that were read.
        decoded: how often an image was decoded.
    """

    def __init__(
        self, data: DetectionSet, *, order: str, cache_bytes: int, strict: bool = False, room: Room | None = None
    ) -> None:
        self.data = data
        self.order = order
        self.strict = strict
        self.oddities = Oddities(data.source)
        self.decoded = 0
        self._left = cache_bytes
        self._kept: dict[tuple[int, int, int], Tensor] = {}
        self._room = room
        self._stored: dict[Size | None, StoredImages | None] = {}
        self._lock = Lock()

    def load(self, index: int, short: int, longest: int, *, keep: bool) -> Tensor:
        """Image ``index`` resized, uint8 [3, h, w]; see ``transforms.resized_shape``.

        Args:
            keep: in this size, in memory or on the disk (when sizes vary, the original is kept instead).

        Raises:
            UserError: the file is missing, damaged, or not of the size the annotations say.
        """
        record = self.data.records[index]
        shape = resized_shape(record.height, record.width, short, longest)
        key = (index, *shape) if keep else (index, record.height, record.width)
        kept = self._kept.get(key)
        if kept is None:
            kept, stored = self._fetch(index, (short, longest) if keep else None)
            # two threads may both decode an image; the budget then counts it twice, which does no harm
            if not stored and kept.numel() <= self._left:
                self._left -= kept.numel()
                self._kept[key] = kept
        return resize(kept, shape)

    def report(self) -> None:
        """Log how many images were decoded so far, and how many are out of order."""
        self.oddities.report()
        logger.info("%s: %d images in the set, decoded %d times", self.data.name, len(self.data), self.decoded)

    def _fetch(self, index: int, size: Size | None) -> tuple[Tensor, bool]:
        """An image in a size, None being its own, and whether the disk has it."""
        stored = self._on_disk(size)
        if stored is None:
            return _to_tensor(self._made(index, size)[0], size), False
        source = source_of(self.data.root, self.data.records[index].file_name)
        array, on_disk = stored.load(index, source, partial(self._made, index, size))
        return _to_tensor(array, size), on_disk

    def _made(self, index: int, size: Size | None) -> tuple[np.ndarray, bool]:
        """The array that the disk holds, and whether nothing about the image is out of order."""
        record = self.data.records[index]
        odd: list[str] = []
        tell = self.oddities.of(record.file_name)

        def warn(what: str) -> None:
            odd.append(what)
            tell(what)

        encoded = self.data.root.read(record.file_name)
        try:
            image = decode(encoded, order=self.order, strict=self.strict, warn=warn)
        except ImageError as e:
            raise UserError(f"{self.data.source}: image {record.file_name}: {e}", hint="replace the file") from e
        if image.shape[:2] != (record.height, record.width):
            found, sides = inspect_image(encoded), (record.height, record.width)
            raise UserError(
                f"{self.data.source}: image {describe_size(record.file_name, found, *sides)}",
                hint=EXIF_HINT if is_stored_size(found, *sides) else SIZE_HINT,
            )
        with self._lock:
            self.decoded += 1
        if size is not None:
            shape = resized_shape(record.height, record.width, *size)
            resized = resize(_to_tensor(image, None), shape)
            image = np.empty((3, *shape), dtype=np.uint8)
            paste(resized, torch.from_numpy(image))
        return image, not odd

    def _on_disk(self, size: Size | None) -> StoredImages | None:
        if self._room is None:
            return None
        with self._lock:
            if size not in self._stored:
                self._stored[size] = self._opened(self._room, size)
            return self._stored[size]

    def _opened(self, room: Room, size: Size | None) -> StoredImages | None:
        records = self.data.records
        identity = {
            "root": self.data.root.where,
            "images": names_digest((each.file_name, each.height, each.width) for each in records),
            "order": self.order,
            "size": size,
            "upright": True,
            "made_by": _made_by(),
        }
        shapes = [(each.height, each.width, 3) for each in records]
        if size is not None:
            shapes = [(3, *resized_shape(each.height, each.width, *size)) for each in records]
        about = {"set": self.data.name, "annotations": self.data.source, "images": self.data.root.where}
        sides = "as they are" if size is None else f"shorter side {size[0]}, longer at most {size[1]}"
        return room.open(identity, shapes, about={**about, "size": sides, "order": self.order})


def _to_tensor(array: np.ndarray, size: Size | None) -> Tensor:
    """uint8 [3, h, w]; an image in its own size stays as decoders write it, pixel by pixel, which is resized faster."""
    tensor = torch.from_numpy(array)
    return tensor.permute(2, 0, 1) if size is None else tensor


@cache
def _made_by() -> dict[str, str]:
    """What bits of pixels depend on besides the file: another version, or another kind of CPU, makes its own."""
    versions = {"scaleprior": __version__, "torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}
    for name in (*_DECODERS, *_OPENCV):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if not versions.keys() & set(_OPENCV):
        import cv2  # built by hand: only it can say

        versions["opencv"] = cv2.__version__
    return versions
