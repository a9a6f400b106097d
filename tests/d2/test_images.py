"""Images as Detectron2's own reader gives them: the embedded engine sees the same pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data.detection_utils import read_image

from scaleprior.corpus.images import decode
from tests.corpus.images.files import exif, insert, jpeg_segment, noise, save


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied_as_detectron2_applies_it(tmp_path: Path, kind: str, orientation: int) -> None:
    file = tmp_path / "image"
    file.write_bytes(save(noise(), kind, exif=exif(orientation)))
    for order in ("RGB", "BGR"):
        assert np.array_equal(decode(file.read_bytes(), order=order), read_image(str(file), order))


@pytest.mark.parametrize(
    "block", [b"", b"no TIFF header", exif(6)[6:22], exif(6)[6:].replace(b"\x01\x12\0\x03", b"\x01\x12\0\x02")]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_missing_and_broken_exif_turn_nothing_there_either(tmp_path: Path, block: bytes) -> None:
    file = tmp_path / "image.jpg"
    file.write_bytes(insert(save(noise(), "JPEG"), 2, jpeg_segment(0xE1, b"Exif\0\0" + block)))
    assert np.array_equal(decode(file.read_bytes()), read_image(str(file), "RGB"))
    assert decode(file.read_bytes()).shape == noise().shape


def test_detectron2_turns_a_tiff_twice(tmp_path: Path) -> None:
    """The one difference: Pillow turned it already. If this fails, Detectron2 or Pillow was mended; say so in docs/."""
    file = tmp_path / "image.tif"
    file.write_bytes(save(noise(), "TIFF", exif=exif(3)))
    assert np.array_equal(decode(file.read_bytes()), noise()[::-1, ::-1])
    assert np.array_equal(read_image(str(file), "RGB"), noise())
