"""What the beginning of a file says of the image."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from PIL import Image, features

from scaleprior.corpus.images import ImageError, ImageFacts, inspect_image
from tests.corpus.images.files import exif, insert, jpeg_segment, noise, save

_KINDS = {"JPEG": "JPEG", "PNG": "PNG", "WEBP": "WebP", "BMP": "BMP", "TIFF": "TIFF", "GIF": "GIF", "PPM": "PNM"}
_KINDS |= {"JPEG2000": "JPEG 2000"} if features.check("jpg_2000") else {}
_KINDS |= {"AVIF": "AVIF"} if features.check("avif") else {}


@pytest.mark.parametrize("pillow", _KINDS)
def test_kind_and_size(pillow: str) -> None:
    assert inspect_image(save(noise(30, 50), pillow)) == ImageFacts(_KINDS[pillow], 30, 50)


@pytest.mark.parametrize("pillow", ["JPEG", "PNG", "GIF", "BMP", "PPM"])
def test_the_beginning_of_a_large_file_is_enough(pillow: str) -> None:
    data = save(noise(400, 700), pillow)
    assert len(data) > 2 * 65536
    assert inspect_image(data[:65536]) == inspect_image(data)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("pillow", _KINDS)
@pytest.mark.parametrize("length", [3, 9, 13, 20, 25])
def test_a_beginning_that_is_too_short_is_an_error_and_no_other_answer(pillow: str, length: int) -> None:
    data = save(noise(300, 500), pillow)
    with contextlib.suppress(ImageError):
        assert inspect_image(data[:length]) == inspect_image(data)


def test_a_header_longer_than_what_was_given_asks_for_more() -> None:
    block = jpeg_segment(0xE1, exif(6) + bytes(60_000)) + jpeg_segment(0xE2, bytes(60_000))
    data = insert(save(noise(), "JPEG"), 2, block)
    with pytest.raises(ImageError, match="header is cut short"):
        inspect_image(data[:65536])
    assert inspect_image(data).orientation == 6
    webp = save(noise(300, 500), "WEBP", lossless=True, exif=exif(6))
    with pytest.raises(ImageError, match="metadata are cut off"):
        inspect_image(webp[:65536])
    assert inspect_image(webp) == ImageFacts("WebP", 300, 500, 6)


def test_os2_and_bottom_up_bitmaps() -> None:
    header = b"BM" + bytes(8) + b"\x1a\0\0\0" + b"\x0c\0\0\0" + b"\x05\0\x03\0" + b"\x01\0\x18\0"
    assert inspect_image(header + bytes(64)) == ImageFacts("BMP", 3, 5)
    data = bytearray(save(noise(3, 5), "BMP"))
    data[22:26] = (-3).to_bytes(4, "little", signed=True)
    assert inspect_image(bytes(data)) == ImageFacts("BMP", 3, 5)


def test_a_camera_raw_file_is_not_taken_for_its_thumbnail() -> None:
    from PIL import TiffImagePlugin

    for tag, value in ((50706, b"\x01\x04\0\0"), (254, 1)):
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[tag] = value
        with pytest.raises(ImageError, match="camera's raw file, whose first picture is its thumbnail"):
            inspect_image(save(noise(), "TIFF", tiffinfo=tags))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "an empty file"),
        (bytes(64), "64 zero bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "run: git lfs pull"),
        (b"/annex/objects/SHA256E-s31--a.jpg\n", "git annex get"),
        (b"<!DOCTYPE html><html><body>404</body>", "an HTML page"),
        (b"\n  <HTML>\n", "an HTML page"),
        (
            b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
            "an XML text, perhaps the answer of a failed",
        ),
        (b'\xef\xbb\xbf<?xml version="1.0"?><!-- x --><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b"8BPS\0\x01" + bytes(20), "a Photoshop document"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image, which is not read"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "a HEIC image, which is not read"),
        (b"\0\0\0\x20ftypisom\0\0\x02\0", "a video"),
        (b"\0\0\0\x14ftypqt  \0\0\x02\0", "a video"),
        (b"RIFF\x24\0\0\0AVI LIST", "a video"),
        (b"\x1aE\xdf\xa3" + bytes(30), "a video"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"\x1f\x8b\x08" + bytes(10), "a gzip archive"),
        (bytes(128) + b"DICM" + bytes(4), "a DICOM file"),
        (b"\x93NUMPY\x01\0", "a NumPy array"),
        (b'{"error": "rate limited"}', "a JSON text"),
        (b"hello, world", "not an image of a known format (it starts with 68656c6c6f2c2077)"),
    ],
)
def test_strangers_are_called_by_their_names(data: bytes, said: str) -> None:
    with pytest.raises(ImageError) as error:
        inspect_image(data)
    assert said in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of what is wrong with a TIFF's tags
def test_no_bytes_crash_the_reader() -> None:
    """Any beginning of any format with any byte changed is facts or an ImageError."""
    rng = np.random.default_rng(0)
    files = [
        save(noise(), kind, **({"exif": exif(6)} if kind != "PPM" else {})) for kind in ("JPEG", "PNG", "WEBP", "TIFF")
    ]
    files += [save(Image.fromarray(noise()).quantize(16), "GIF"), save(noise(), "BMP"), save(noise(), "PPM")]
    for data in files:
        for _ in range(150):
            broken = bytearray(data[: rng.integers(2, len(data))])
            for place in rng.integers(0, min(len(broken), 120), 3):
                broken[place] = rng.integers(0, 256)
            with contextlib.suppress(ImageError):
                inspect_image(bytes(broken))
