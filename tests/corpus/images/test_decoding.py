"""Decoding: what is accepted, and that nothing damaged passes."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg

from scaleprior.corpus.images import ImageError, check_image, decode, image_size


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """A smooth 40 x 56 picture with three different channels, so that JPEG keeps it nearly and order shows."""
    y, x = np.mgrid[0:40, 0:56]
    return np.stack([x * 4, y * 6, 255 - x * 2 - y], axis=-1).astype(np.uint8)


def encoded(kind: str, picture: np.ndarray) -> bytes:
    if kind == "jpeg":
        return simplejpeg.encode_jpeg(picture, quality=95, colorsubsampling="444")
    options = [cv2.IMWRITE_WEBP_QUALITY, 101] if kind == "webp" else []
    return cv2.imencode(f".{kind}", picture[..., ::-1], options)[1].tobytes()


KINDS = ["jpeg", "png", "webp", "bmp"]


@pytest.mark.parametrize("kind", KINDS)
def test_decodes_in_the_order_asked(kind, picture):
    data = encoded(kind, picture)
    tolerance = 6 if kind == "jpeg" else 0  # JPEG at quality 95 is lossy, the others are not
    rgb = decode(data)
    assert rgb.dtype == np.uint8
    assert rgb.shape == (40, 56, 3)
    assert rgb.flags.c_contiguous
    assert np.abs(rgb.astype(int) - picture).max() <= tolerance
    assert np.array_equal(decode(data, order="BGR"), rgb[..., ::-1])
    assert image_size(data)[1:] == (40, 56)
    check_image(data)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [0.3, 0.5, 0.9, 0.999])
def test_truncated_is_an_error(kind, keep, picture):
    data = encoded(kind, picture)
    data = data[: min(len(data) - 2, int(len(data) * keep))]
    for function in (decode, check_image):
        with pytest.raises(ImageError, match=r"truncated|damaged|corrupt"):
            function(data)


def test_jpeg_with_missing_middle_is_not_filled_with_grey(picture):
    """The end marker is there but half of the coefficients are not: lenient decoders return a grey half."""
    rng = np.random.default_rng(0)
    data = simplejpeg.encode_jpeg(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    damaged = data[: len(data) // 2] + b"\xff\xd9"
    assert cv2.imdecode(np.frombuffer(damaged, np.uint8), cv2.IMREAD_COLOR) is not None  # the trap
    for function in (decode, check_image):
        with pytest.raises(ImageError, match="corrupt or truncated JPEG"):
            function(damaged)


@pytest.mark.parametrize("data", [b"", b"hello", b"GIF89a" + b"\0" * 50, b"\xff\xd8", b"\xff\xd8\xff\xe0" + b"x" * 90])
def test_junk(data):
    for function in (decode, check_image):
        with pytest.raises(ImageError):
            function(data)


def test_grey_and_alpha_and_sixteen_bits(picture):
    grey = picture[..., 0].copy()
    jpeg = simplejpeg.encode_jpeg(grey[..., None], quality=95, colorspace="GRAY", colorsubsampling="Gray")
    assert np.abs(decode(jpeg).astype(int) - grey[..., None]).max() <= 6
    png = cv2.imencode(".png", grey)[1].tobytes()
    assert np.array_equal(decode(png), np.repeat(grey[..., None], 3, axis=2))
    alpha = np.dstack([picture[..., ::-1], np.full(grey.shape, 7, np.uint8)])
    assert np.array_equal(decode(cv2.imencode(".png", alpha)[1].tobytes()), picture)
    deep = picture[..., ::-1].astype(np.uint16) * 257
    assert np.abs(decode(cv2.imencode(".png", deep)[1].tobytes()).astype(int) - picture).max() <= 1


def test_cmyk_jpeg(picture):
    image = pytest.importorskip("PIL.Image")
    import io

    file = io.BytesIO()
    image.fromarray(picture).convert("CMYK").save(file, "JPEG", quality=95)
    # an independent reader; the same naive conversion, so only rounding and JPEG's loss remain
    expected = np.asarray(image.open(io.BytesIO(file.getvalue())).convert("RGB")).astype(int)
    got = decode(file.getvalue())
    assert np.abs(got - expected).max() <= 3
    assert np.array_equal(decode(file.getvalue(), order="BGR"), got[..., ::-1])
    check_image(file.getvalue())


def test_bomb_is_refused_before_decoding():
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + b"IEND"
    with pytest.raises(ImageError, match="60000 x 60000 pixels"):
        decode(data)


def test_pixel_limit_is_inclusive(picture):
    data = encoded("png", picture)
    assert decode(data, max_pixels=40 * 56).shape == (40, 56, 3)
    with pytest.raises(ImageError, match="56 x 40 pixels, accepted are 1 to 2239"):
        decode(data, max_pixels=40 * 56 - 1)


@pytest.mark.parametrize("quality", [80, 101])
@pytest.mark.parametrize("channels", [3, 4])
def test_webp_forms_report_their_size(quality, channels):
    """Lossy, lossless and extended WebP keep their size in different places."""
    image = np.random.default_rng(1).integers(0, 255, (30, 50, channels), dtype=np.uint8)
    data = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()
    assert image_size(data) == ("WebP", 30, 50)
    assert decode(data).shape == (30, 50, 3)


def test_unknown_channel_order(picture):
    with pytest.raises(ValueError, match="channel order 'rgb'"):
        decode(encoded("png", picture), order="rgb")
