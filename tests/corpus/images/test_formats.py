"""Values of every format and kind of pixel, against Pillow and OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin, features

from scaleprior.corpus.images import ImageError, check_image, decode
from tests.corpus.images.files import noise, pillow, save

GREY = noise()[..., 0]
DEEP = (noise()[..., 0].astype(np.uint16) << 8) + noise()[..., 1]


def opencv(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)[..., ::-1]


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def palette(transparent: bool) -> Image.Image:
    image = Image.fromarray(noise()).quantize(32)
    if transparent:
        image.info["transparency"] = 3
    return image


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_kinds_of_pixels(kind: str, mode: str) -> None:
    if kind == "PNG" and mode in ("CMYK", "YCbCr"):
        pytest.skip("no PNG has these")
    data = save(Image.fromarray(noise()).convert(mode), kind)
    assert np.array_equal(decode(data), pillow(data))
    check_image(data)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg", "zstd"])
def test_compressed_tiffs(compression: str) -> None:
    if not features.check("libtiff"):
        pytest.skip("this Pillow has no libtiff")
    data = save(noise(), "TIFF", compression=compression)
    assert np.array_equal(decode(data), pillow(data))
    if compression != "jpeg":
        assert np.array_equal(decode(data), noise())


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_sixteen_bits_are_scaled_not_cut_off(kind: str) -> None:
    """Pillow's own conversion, which Detectron2 uses, cuts grey off at 255."""
    data = save(DEEP, kind)
    assert np.array_equal(decode(data), three(noise()[..., 0]))
    assert np.array_equal(decode(data), opencv(data))
    assert pillow(data).max() == 255
    assert not np.array_equal(decode(data), pillow(data))
    colour = (noise().astype(np.uint16) << 8) + 77
    data = cv2.imencode(f".{kind.lower()}", colour[..., ::-1])[1].tobytes()
    assert np.abs(decode(data).astype(int) - noise()).max() <= (1 if kind == "PNG" else 0)
    assert np.abs(decode(data).astype(int) - opencv(data)).max() <= 1
    pgm = b"P5\n40 24\n65535\n" + DEEP.astype(">u2").tobytes()
    assert np.array_equal(decode(pgm), three(noise()[..., 0]))


def test_a_tiff_whose_zero_is_white() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    for pixels in (GREY, DEEP):
        data = save(pixels, "TIFF", tiffinfo=tags)
        assert np.array_equal(decode(data), opencv(data))


@pytest.mark.parametrize("pixels", [GREY.astype(np.float32), GREY.astype(np.int32)])
def test_values_without_a_range_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ImageError, match="TIFF of 32 bits a value, which have no fixed range"):
        decode(save(pixels, "TIFF"))


def test_palettes_with_transparency() -> None:
    for kind in ("PNG", "GIF", "TIFF"):
        for transparent in (False, True):
            data = save(palette(transparent), kind)
            assert np.array_equal(decode(data), pillow(data)), kind
    two = save(Image.fromarray(GREY > 127), "PNG", bits=1)
    assert np.array_equal(decode(two), three(np.where(GREY > 127, 255, 0)))


@pytest.mark.parametrize("transform", [0, 2])
def test_four_inks_are_pillows(transform: int) -> None:
    """CMYK, and YCCK, which is the same file with another word about its colours."""
    data = save(Image.fromarray(noise()).convert("CMYK"), "JPEG", quality=95)
    place = data.index(b"Adobe") + 11
    data = data[:place] + bytes([transform]) + data[place + 1 :]
    assert np.array_equal(decode(data), pillow(data))
    check_image(data)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif() -> None:
    data = save(noise(), "AVIF", quality=90)
    assert np.array_equal(decode(data), pillow(data))
    general = data[:8] + b"mif1" + data[12:]  # some writers name the container first; AVIF is among the compatible ones
    assert np.array_equal(decode(general), pillow(general))


def test_avif_that_this_pillow_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(ImageError, match=r"an AVIF image, which this Pillow cannot read \(install Pillow 11.3"):
        decode(b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miafMA1B")


@pytest.mark.parametrize("head", [b"P1\n2 1\n0 1\n", b"P2\n2 1\n255\n255 0\n", b"P3 2 1 255 255 255 255 0 0 0\n"])
def test_plain_text_bitmaps(head: bytes) -> None:
    assert decode(head).tolist() == [[[255] * 3, [0] * 3]]


def test_a_text_that_begins_like_a_bitmap_is_none() -> None:
    with pytest.raises(ImageError, match="not an image of a known format"):
        decode(b"BM is what this text begins with, and it goes on for a while")
