"""Orientation: every value, wherever the formats keep it, against the standard's figure and Detectron2's reader."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from scaleprior.corpus.images import ImageFacts, check_image, decode, inspect_image
from scaleprior.corpus.images.orientation import stored, upright
from tests.corpus.images.files import TURNS, exif, insert, jpeg_segment, noise, pillow, png_chunk, save

_XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'
_AVIF = pytest.param("AVIF", marks=pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF"))
_LOSSLESS = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}, "AVIF": {"quality": 100}}


def _tagged(kind: str, orientation: int) -> bytes:
    return save(noise(), kind, exif=exif(orientation), **_LOSSLESS.get(kind, {}))


def _as_detectron2(data: bytes) -> np.ndarray:
    """``_apply_exif_orientation`` of Detectron2, which turns by the same table, and its conversion to RGB."""
    image = Image.open(io.BytesIO(data))
    try:
        tags = image.getexif()
    except Exception:
        return np.asarray(image.convert("RGB"))
    method = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(tags.get(0x0112))
    return np.asarray((image if method is None else image.transpose(method)).convert("RGB"))


def _check(data: bytes, orientation: int, kind: str = "", reference: np.ndarray | None = None) -> None:
    """Upright and stored pixels, both orders, and what is known of the file without decoding it."""
    pixels = pillow(data) if reference is None else reference
    expected = TURNS[orientation](pixels)
    got = decode(data)
    assert got.flags.c_contiguous
    assert np.array_equal(got, expected)
    assert np.array_equal(decode(data, order="BGR"), expected[..., ::-1])
    assert np.array_equal(decode(data, upright=False), pixels)
    facts = inspect_image(data)
    assert facts == ImageFacts(kind or facts.kind, *pixels.shape[:2], orientation)
    assert (facts.upright_height, facts.upright_width) == got.shape[:2]
    assert facts.turned == (orientation != 1)
    assert check_image(data) == facts


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", _AVIF])
def test_every_value_turns_the_pixels_as_the_standard_and_detectron2_do(kind: str, orientation: int) -> None:
    data = _tagged(kind, orientation)
    _check(data, orientation, {"WEBP": "WebP"}.get(kind, kind))
    assert np.array_equal(decode(data), _as_detectron2(data))
    assert np.array_equal(
        decode(data), np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(orientation: int) -> None:
    """Pillow turns a TIFF when it loads it; Detectron2 turns it a second time, which nobody means."""
    data = _tagged("TIFF", orientation)
    _check(data, orientation, "TIFF", reference=noise())
    assert np.array_equal(decode(data), pillow(data))


@pytest.mark.parametrize("orientation", [0, 9, 255])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_other_values_turn_nothing(kind: str, orientation: int) -> None:
    data = _tagged(kind, orientation)
    _check(data, 1)
    assert np.array_equal(decode(data), _as_detectron2(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_no_tag_turns_nothing(kind: str) -> None:
    _check(save(noise(), kind), 1)


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"II",
        b"garbage, and no TIFF header",
        b"II*\0\x08\0\0\0",
        b"II*\0\xff\xff\xff\xff",
        exif(6)[6:22],  # cut within its directory
        exif(6)[6:].replace(b"\x01\x12\0\x03", b"\x01\x12\0\x02"),  # the tag is a text
        exif(6)[6:].replace(b"\x01\x12\0\x03", b"\x01\x12\0\x63"),  # of an unknown type
        exif(6)[6:].replace(b"\0\0\0\x01\0\x06", b"\0\0\xff\xff\0\x06"),  # of more values than there are
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_broken_exif_is_read_as_detectron2_reads_it(block: bytes) -> None:
    data = insert(save(noise(), "JPEG"), 2, jpeg_segment(0xE1, b"Exif\0\0" + block))
    assert np.array_equal(decode(data, strict=True), _as_detectron2(data))


def test_big_endian_exif_and_other_types_of_number() -> None:
    entry = b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    big = b"MM\0*\0\0\0\x08\0\x01" + entry + b"\0\0\0\0"
    for block in (big, big.replace(b"\0\x03\0\0\0\x01\0\x06\0\0", b"\0\x04\0\0\0\x01\0\0\0\x06")):
        data = insert(save(noise(), "JPEG"), 2, jpeg_segment(0xE1, b"Exif\0\0" + block))
        _check(data, 6)
        assert np.array_equal(decode(data), _as_detectron2(data))


def test_xmp_counts_where_exif_says_nothing() -> None:
    plain = save(noise(), "JPEG")
    xmp = jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + _XMP % 8)
    for data, orientation in (
        (insert(plain, 2, xmp), 8),
        (insert(insert(plain, 2, xmp), 2, jpeg_segment(0xE1, exif(6))), 6),
        (insert(insert(plain, 2, jpeg_segment(0xE1, exif(6))), 2, xmp), 6),
        (save(noise(), "WEBP", lossless=True, xmp=_XMP % 3), 3),
    ):
        _check(data, orientation)
        assert np.array_equal(decode(data), _as_detectron2(data))


def test_png_keeps_orientation_in_several_places() -> None:
    plain = save(noise(), "PNG")
    raw = b"\nexif\n%8d\n%s\n" % (len(exif(8)), exif(8).hex().encode())
    text, xmp = b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"
    cases = {
        png_chunk(b"eXIf", exif(5)[6:]): 5,
        png_chunk(b"tEXt", text + raw): 8,
        png_chunk(b"zTXt", text + b"\0" + zlib.compress(raw)): 8,
        png_chunk(b"zTXt", text + b"\0" + zlib.compress(raw)) + png_chunk(b"eXIf", exif(5)[6:]): 5,
        png_chunk(b"iTXt", xmp + b"\0\0\0\0" + _XMP % 7): 7,
        png_chunk(b"iTXt", xmp + b"\x01\0\0\0" + zlib.compress(_XMP % 7)): 7,
        png_chunk(b"iTXt", xmp + b"\x01\0\0\0" + b"not compressed"): 1,
        png_chunk(b"tEXt", b"Comment\0" + raw): 1,
    }
    for chunks, orientation in cases.items():
        for place in (33, len(plain) - 12):  # behind the header, and behind the pixels
            data = insert(plain, place, chunks)
            _check(data, orientation)
            assert np.array_equal(decode(data), _as_detectron2(data))


def test_a_tag_after_other_segments_and_in_a_second_picture() -> None:
    """APP13 before EXIF is found; the thumbnail inside EXIF and what follows the picture are not the picture's."""
    plain = save(noise(), "JPEG")
    late = insert(insert(plain, 2, jpeg_segment(0xE1, exif(6))), 2, jpeg_segment(0xED, b"\xff\xda\xff\xe1" * 200))
    _check(late, 6)
    _check(plain + _tagged("JPEG", 8), 1)
    _check(insert(plain, 2, jpeg_segment(0xE1, exif(3) + _tagged("JPEG", 8))), 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_stored_undoes_upright(orientation: int) -> None:
    assert np.array_equal(stored(upright(noise(), orientation), orientation), noise())
