"""Detectron2's mapper, for images that the machine's disk holds decoded: its own pixels, decoded once.

Detectron2's mapper opens the file that its dict names through ``PathManager`` and reads it with Pillow. Here it is
given a name of ours, under which ``PathManager`` finds the pixels that Detectron2's ``read_image`` made, as an
uncompressed image, which Pillow only copies.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import detectron2
import numpy as np
import PIL
from detectron2.data import DatasetMapper, detection_utils
from detectron2.utils.file_io import PathHandler, PathManager
from fvcore.common.config import CfgNode

from scaleprior.detect.data.headers import file_identity
from scaleprior.detect.data.store.room import Room, machine_room
from scaleprior.detect.data.store.stored import names_digest

__all__ = ["StoredMapper", "with_store"]

_PREFIX = "scaleprior-decoded://"


def with_store(mapper: Any, dataset: Sequence[dict[str, Any]], cfg: CfgNode) -> Any:
    """``mapper`` with ``SCALEPRIOR.IMAGE_STORE_MB``, where it is Detectron2's own: what another reads, nobody knows.

    Args:
        dataset: Detectron2's dicts; those without a height and a width are read as before.
    """
    room = machine_room(cfg.SCALEPRIOR.IMAGE_STORE_MB)
    plain = type(mapper) is DatasetMapper and mapper.image_format in ("RGB", "BGR")
    if room is None or not plain or not isinstance(dataset, Sequence):
        return mapper
    known = [each for each in dataset if {"file_name", "height", "width"} <= each.keys()]
    return StoredMapper(mapper, [(each["file_name"], each["height"], each["width"]) for each in known], room)


class StoredMapper:
    """What ``mapper`` makes of a dict, to the bit; images come from the room where it has them.

    It opens its set where it is used first, which is in each process of a loader.

    Args:
        images: name, height and width of each.
    """

    def __init__(self, mapper: DatasetMapper, images: Sequence[tuple[str, int, int]], room: Room) -> None:
        self.mapper = mapper
        self._images = images
        self._room = room
        self._found: _Found | None = None

    def __call__(self, record: Mapping[str, Any]) -> Any:
        if self._found is None:
            self._found = _Found(self._images, self._room)
        pixels = self._found.load(record)
        if pixels is None:
            return self.mapper(record)
        name = record["file_name"]
        with _HELD.holding(pixels) as path:
            mapped = self.mapper({**record, "file_name": path})
        if isinstance(mapped, dict):
            mapped["file_name"] = name
        return mapped

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_found": None}  # open files stay in their process


class _Found:
    """The set, open."""

    def __init__(self, images: Sequence[tuple[str, int, int]], room: Room) -> None:
        self._sizes = {name: (height, width) for name, height, width in images}
        self._index = {name: index for index, name in enumerate(self._sizes)}
        identity = {
            "images": names_digest((name, *size) for name, size in self._sizes.items()),
            "order": "RGB",
            "read_by": {"detectron2": detectron2.__version__, "Pillow": PIL.__version__},
        }
        shapes = [(*size, 3) for size in self._sizes.values()]
        folders = {os.path.dirname(name) for name in self._sizes}
        about = {"set": "of the detectron2 engine", "images": "\n".join(sorted(folders)), "order": "RGB"}
        self._stored = room.open(identity, shapes, about=about)

    def load(self, record: Mapping[str, Any]) -> np.ndarray | None:
        """uint8 [H, W, 3], RGB; None where the mapper is to read the image itself, or to say what is wrong with it."""
        name = record.get("file_name")
        if self._stored is None or name not in self._index:
            return None
        size, identity = self._sizes[name], file_identity(name)
        if identity is None or size != (record.get("height"), record.get("width")):
            return None

        def read() -> tuple[np.ndarray, bool]:
            pixels = detection_utils.read_image(name, format="RGB")
            return pixels, pixels.shape == (*size, 3)

        pixels, _ = self._stored.load(self._index[name], (name, 0, -1, identity), read)
        return pixels if pixels.shape == (*size, 3) else None


class _Held(PathHandler):
    """Gives pixels as files, under names of its own, as long as somebody holds them."""

    def __init__(self) -> None:
        super().__init__()
        self._pixels: dict[str, np.ndarray] = {}

    def _get_supported_prefixes(self) -> list[str]:
        return [_PREFIX]

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **_: Any) -> io.BytesIO:
        pixels = self._pixels[path]
        height, width, _channels = pixels.shape
        return io.BytesIO(b"P6 %d %d 255\n" % (width, height) + pixels.tobytes())

    @contextlib.contextmanager
    def holding(self, pixels: np.ndarray) -> Iterator[str]:
        """The name of uint8 [H, W, 3], RGB."""
        path = f"{_PREFIX}{id(pixels)}"
        self._pixels[path] = pixels
        try:
            yield path
        finally:
            del self._pixels[path]


_HELD = _Held()
PathManager.register_handler(_HELD)
