"""Which pixels are an object's: polygons or a bitmap, resized and flipped with their image by Detectron2's rules.

An image has H x W pixels; a pixel's centre lies at a half, so that the image reaches from 0 to W.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import faster_coco_eval.core.mask as mask_api
import numpy as np
from PIL import Image

__all__ = [
    "Bitmap", "MaskFormat", "Polygons", "RunLengths", "Segmentation", "cut", "draw", "read_mask", "run_lengths",
    "to_image",
]  # fmt: skip

MaskFormat = Literal["polygon", "bitmask"]
"""``INPUT.MASK_FORMAT``: how masks are kept in training, which decides how they are cut out."""

_DIGITS = 7  # of 5 bits in a compressed number; more are no length in an image of fewer than 2^31 pixels


@dataclass(frozen=True, eq=False)
class Polygons:
    """An object's outline, parts that lie apart included.

    Attributes:
        points: float64 [P, 2], x and y, of one polygon behind the other; they may lie outside of the image.
        counts: points of each polygon, 3 at least.
    """

    __slots__ = ("counts", "points")

    points: np.ndarray
    counts: tuple[int, ...]

    @classmethod
    def of(cls, polygons: Iterable[Sequence[float]]) -> Polygons:
        """From COCO's lists ``[x1, y1, x2, y2, ...]``."""
        # float64 also where all are whole numbers: Detectron2 would cut those off when it resizes them
        arrays = [np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in polygons]
        return cls(np.concatenate(arrays), tuple(map(len, arrays)))

    @property
    def visible(self) -> bool:
        """Whether an object remains of it: always, as in Detectron2, which looks at its box alone."""
        return True

    def flat(self) -> list[list[float]]:
        """As COCO's API takes them."""
        return cut(self.points, self.counts)


@dataclass(frozen=True, eq=False)
class RunLengths:
    """A bitmap as COCO's files hold it: lengths of runs of 0 and 1 down the columns, compressed."""

    __slots__ = ("counts", "height", "width")

    counts: bytes
    height: int
    width: int

    def array(self) -> np.ndarray:
        """uint8 [H, W] of 0 and 1."""
        return _filled(self.counts, self.height, self.width)


@dataclass(frozen=True, eq=False)
class Bitmap:
    """A bitmap of 8 pixels a byte, row by row."""

    __slots__ = ("bits", "height", "width")

    bits: np.ndarray
    height: int
    width: int

    @classmethod
    def of(cls, array: np.ndarray) -> Bitmap:
        """From [H, W], in which all but 0 is the object's."""
        return cls(np.packbits(array), *array.shape)

    @property
    def visible(self) -> bool:
        """Whether an object remains of it: not if it was so thin that no pixel of the new size took it."""
        return bool(self.bits.any())

    def array(self) -> np.ndarray:
        """uint8 [H, W] of 0 and 1."""
        return np.unpackbits(self.bits, count=self.height * self.width).reshape(self.height, self.width)


Segmentation = Polygons | Bitmap
"""The mask of one object in a batch."""


def read_mask(segmentation: Any) -> Polygons | RunLengths:
    """From an annotation's ``segmentation``, which has to be in order (see ``segmentation_check``)."""
    if isinstance(segmentation, list):
        return Polygons.of(segmentation)
    height, width = segmentation["size"]
    counts = segmentation["counts"]
    if isinstance(counts, list):
        (compressed,) = mask_api.frPyObjects([segmentation], height, width)
        counts = compressed["counts"]
    return RunLengths(counts.encode() if isinstance(counts, str) else counts, height, width)


def to_image(
    mask: Polygons | RunLengths, size: tuple[int, int], shape: tuple[int, int], *, flip: str = "none", form: MaskFormat
) -> Segmentation:
    """The mask of an image that was resized from ``size`` to ``shape`` (height, width) and then flipped.

    Bitmaps take the nearest pixel.

    Args:
        flip: "horizontal", "vertical" or "none".
        form: "bitmask" draws polygons, too, at the new size; with "polygon" there is nothing but polygons.
    """
    if not isinstance(mask, Polygons):
        return Bitmap.of(_flipped(_nearest(mask.array(), shape), flip))
    points = mask.points * np.array([shape[1] / size[1], shape[0] / size[0]])
    if flip == "horizontal":
        points[:, 0] = shape[1] - points[:, 0]
    elif flip == "vertical":
        points[:, 1] = shape[0] - points[:, 1]
    resized = Polygons(points, mask.counts)
    return resized if form == "polygon" else Bitmap.of(draw(resized.flat(), [len(mask.counts)], *shape)[0])


def draw(polygons: list[list[float]], counts: Sequence[int], height: int, width: int) -> np.ndarray:
    """uint8 [M, height, width], each the union of the next ``counts`` of ``polygons``."""
    lengths = mask_api.frPyObjects(polygons, height, width)
    drawn = np.stack([_filled(each["counts"], height, width) for each in lengths])
    if len(polygons) == len(counts):
        return drawn
    starts = np.cumsum([0, *counts[:-1]])
    return np.bitwise_or.reduceat(drawn, starts, axis=0)


def run_lengths(counts: bytes) -> np.ndarray | None:
    """Lengths of the runs, int64 [R], in ``counts`` as COCO compresses them; None where it is damaged.

    A number is written in digits of 5 bits from the lowest, a sixth bit says that another follows, and the highest one
    gives the sign; from the fourth number on it is the difference to the one before the last.
    """
    code = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    if not len(code) or code.min() < 0 or code.max() > 63:
        return None
    last = np.flatnonzero(code < 32)
    first = np.concatenate([[0], last[:-1] + 1])
    digits = last - first + 1
    if not len(last) or last[-1] != len(code) - 1 or digits.max() > _DIGITS:
        return None
    place = np.arange(len(code)) - np.repeat(first, digits)
    numbers = np.add.reduceat((code & 31) << (5 * place), first)
    numbers -= np.where(code[last] & 16, 1 << (5 * digits), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def cut(points: np.ndarray, counts: Sequence[int]) -> list[list[float]]:
    """``points`` [P, 2] as one list of x and y for each of ``counts``."""
    numbers = points.reshape(-1).tolist()
    ends = np.cumsum(counts) * 2
    return [numbers[end - 2 * count : end] for end, count in zip(ends.tolist(), counts)]


def _filled(counts: bytes, height: int, width: int) -> np.ndarray:
    """uint8 [height, width] of 0 and 1 from run lengths, in a tenth of the time that the API takes."""
    runs = run_lengths(counts)
    assert runs is not None
    return np.repeat(np.arange(len(runs), dtype=np.uint8) & 1, runs).reshape(width, height).T


def _nearest(bitmap: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if bitmap.shape == shape:
        return bitmap
    return np.asarray(Image.fromarray(bitmap).resize((shape[1], shape[0]), Image.Resampling.NEAREST))


def _flipped(bitmap: np.ndarray, direction: str) -> np.ndarray:
    return {"horizontal": bitmap[:, ::-1], "vertical": bitmap[::-1], "none": bitmap}[direction]
