"""Small sources of images for the tests of this room."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import simplejpeg

from scaleprior.corpus.index import ImageRow


def jpeg(seed: int, size: int = 8) -> bytes:
    """A small valid JPEG; another seed gives another picture."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    return simplejpeg.encode_jpeg(pixels)


def write_tar(path: Path, members: Mapping[str, bytes], *, style: int = tarfile.USTAR_FORMAT) -> None:
    """An uncompressed tar of these members."""
    with tarfile.open(path, "w", format=style) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def class_folders(root: Path, classes: Mapping[str, int]) -> Path:
    """``root/CLASS/K.jpg`` for K below each class' count."""
    seed = 0
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for k in range(count):
            (root / name / f"{k}.jpg").write_bytes(jpeg(seed))
            seed += 1
    return root


def plain_rows(keys: list[str], labels: list[tuple[str, ...]] | None = None) -> list[ImageRow]:
    """Rows whose images are never read."""
    return [ImageRow(key, labels[k] if labels else ("a",), "", key, 0, k) for k, key in enumerate(keys)]
