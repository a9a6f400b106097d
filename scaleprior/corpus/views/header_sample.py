"""What images are, from their headers: formats and sizes, of all of them or of a random sample.

A header costs the reading of a file, so what is asked of many images is asked of a sample. The first images in hash
order are one: the hash knows nothing of the content.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from scaleprior.corpus.images import ImageError, ImageFacts, inspect_image
from scaleprior.errors import UserError
from scaleprior.progress import ProgressFn

__all__ = ["HeaderSample", "ImageReader", "read_sample"]

ImageReader = Callable[[int | None], bytes]
"""Reads the beginning of an encoded image, at most so many bytes, or all of it; raises UserError where it cannot."""

_CHUNK = 1024  # images handed to the threads at once
_HEAD = 65_536  # bytes that hold nearly every header


@dataclass(frozen=True, eq=False)
class HeaderSample:
    """Formats and sizes of images.

    Attributes:
        images: how many there are.
        asked: of how many the header was to be read.
        sizes: uint32 [R, 2], width and height in pixels, upright, of the R that could be read.
        turned: how many of these are not stored upright: their EXIF orientation is not 1.
        formats: images by format, the most frequent first.
        problems: images that could not be read, by reason.
    """

    images: int
    asked: int
    sizes: np.ndarray
    turned: int
    formats: Mapping[str, int]
    problems: Mapping[str, int]

    @property
    def complete(self) -> bool:
        """Whether these are all images there are, and no sample."""
        return self.asked == self.images

    @property
    def read(self) -> int:
        """Of how many the header could be read."""
        return len(self.sizes)

    def describe(self) -> str:
        """What is spoken of: ``all 40 images`` or ``a random sample of 1,000 of 17,800 images``."""
        if self.complete:
            return f"all {self.images:,} images"
        return f"a random sample of {self.asked:,} of {self.images:,} images"

    def spread(self) -> dict[str, tuple[int, int, int]]:
        """Smallest, median (lower of two) and largest ``width``, ``height`` and ``pixels``; empty without images."""
        if not self.read:
            return {}
        width, height = self.sizes.astype(np.int64).T
        columns = {"width": width, "height": height, "pixels": width * height}
        return {name: _spread(values) for name, values in columns.items()}

    def to_dict(self) -> dict[str, Any]:
        """For JSON; ``sample`` says of how many images it speaks."""
        return {
            "sample": {"images": self.asked, "of": self.images, "complete": self.complete, "read": self.read},
            "formats": dict(self.formats),
            "turned": self.turned,
            **{name: dict(zip(("min", "median", "max"), values)) for name, values in self.spread().items()},
            "problems": dict(self.problems),
        }


def read_sample(
    readers: Iterable[ImageReader], asked: int, images: int, *, progress: ProgressFn | None = None
) -> HeaderSample:
    """Read the headers of ``asked`` images of ``images``, many at a time.

    Args:
        readers: one an image, ``asked`` at least.
    """
    turned = 0
    sizes = array("I")  # 8 bytes an image, which may be many millions
    formats: Counter[str] = Counter()
    problems: Counter[str] = Counter()
    for done, found in enumerate(_headers(islice(readers, asked)), start=1):
        if isinstance(found, str):
            problems[found] += 1
        else:
            formats[found.kind] += 1
            sizes.extend((found.upright_width, found.upright_height))
            turned += found.turned
        if progress is not None and (done % 64 == 0 or done == asked):
            progress(done, asked, {})
    return HeaderSample(
        images=images,
        asked=asked,
        sizes=np.array(sizes, dtype=np.uint32).reshape(-1, 2),
        turned=turned,
        formats=dict(formats.most_common()),
        problems=dict(problems.most_common()),
    )


def _headers(readers: Iterator[ImageReader]) -> Iterator[ImageFacts | str]:
    with ThreadPoolExecutor(max_workers=min(16, 4 * (os.cpu_count() or 1))) as pool:  # they wait for the disk
        while chunk := list(islice(readers, _CHUNK)):
            yield from pool.map(_header, chunk)


def _header(read: ImageReader) -> ImageFacts | str:
    try:
        try:
            return inspect_image(read(_HEAD))
        except ImageError:
            return inspect_image(read(None))
    except ImageError as e:
        return str(e).split(":")[0].split(" (")[0]
    except UserError:
        return "cannot be read"


def _spread(values: np.ndarray) -> tuple[int, int, int]:
    middle = (len(values) - 1) // 2
    return int(values.min()), int(np.partition(values, middle)[middle]), int(values.max())
