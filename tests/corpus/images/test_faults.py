"""What is out of order without harm is read, equal to the other readers' pixels; what is damaged never passes."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image

from scaleprior.corpus.images import ImageError, check_image, decode
from scaleprior.corpus.images.jpeg_repair import ODD_HEADER, SPARE_BYTES
from tests.corpus.images.files import insert, jpeg_segment, noise, pillow, png_chunk, png_chunks, save

BASE = save(noise(), "JPEG", quality=90)
PROGRESSIVE = save(noise(), "JPEG", quality=90, progressive=True)
ROWS = save(noise(200, 40), "JPEG", quality=90, restart_marker_rows=1)  # a restart marker a row of blocks
END = b"\xff\xd9"


def places(data: bytes, marker: bytes) -> list[int]:
    return [place for place in range(len(data) - 1) if data[place : place + 2] == marker]


def restarts(data: bytes) -> list[int]:
    scan = places(data, b"\xff\xda")[0]
    return [p for p in range(scan, len(data) - 1) if data[p] == 0xFF and 0xD0 <= data[p + 1] <= 0xD7]


def with_spare_rows(count: int, which: slice) -> bytes:
    """``ROWS`` with ``count`` bytes that nobody needs before some of its restart markers."""
    data = ROWS
    for place in reversed(restarts(ROWS)[which]):
        data = insert(data, place, b"\x55" * count)
    return data


def odd_scan(data: bytes) -> bytes:
    """A sequential scan that claims to hold the first coefficient only, as some cameras write it."""
    place = places(data, b"\xff\xda")[0]
    last = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big") - 2
    return data[:last] + b"\0" + data[last + 1 :]


HARMLESS = {
    "before the end": (insert(BASE, len(BASE) - 2, b"\x11" * 16), SPARE_BYTES),
    "zeros before the end": (insert(BASE, len(BASE) - 2, bytes(5000)), SPARE_BYTES),
    "progressive, before the end": (insert(PROGRESSIVE, len(PROGRESSIVE) - 2, b"ab" * 9), SPARE_BYTES),
    "between segments": (insert(BASE, places(BASE, b"\xff\xdb")[0], b"\0\0"), SPARE_BYTES),
    "before the scan": (insert(BASE, places(BASE, b"\xff\xda")[0], b"x" * 40), SPARE_BYTES),
    "between scans": (insert(PROGRESSIVE, places(PROGRESSIVE, b"\xff\xc4")[-1], b"\x12\x34" * 5), SPARE_BYTES),
    "before a restart": (with_spare_rows(9, slice(7, 8)), SPARE_BYTES),
    "before restarts of one name": (with_spare_rows(9, slice(1, None, 8)), SPARE_BYTES),
    "before every restart": (with_spare_rows(9, slice(None)), SPARE_BYTES),
    "JFIF 2.01": (BASE.replace(b"JFIF\0\x01", b"JFIF\0\x02"), ODD_HEADER),
    "colour profile": (insert(BASE, 2, jpeg_segment(0xE2, b"ICC_PROFILE\0\x05\x02" + b"x" * 10)), ODD_HEADER),
    "scan's coefficients": (odd_scan(BASE), ODD_HEADER),
    "colour transform": (BASE[:2] + jpeg_segment(0xEE, b"Adobe\0\x64\0\0\0\0\x07") + BASE[20:], ODD_HEADER),
    "two of them": (insert(odd_scan(BASE), len(BASE) - 2, b"\x11" * 16), ODD_HEADER),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_jpegs_are_read_told_of_and_refused_when_strict(name: str) -> None:
    data, what = HARMLESS[name]
    expected = pillow(data)
    assert np.array_equal(expected, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])
    told: list[str] = []
    assert np.array_equal(decode(data, warn=told.append), expected)
    assert np.array_equal(decode(data, order="BGR"), expected[..., ::-1])
    check_image(data, warn=told.append)
    assert told == [what, what]
    for function in (decode, check_image):
        with pytest.raises(ImageError, match="corrupt or truncated JPEG"):
            function(data, strict=True)


def test_what_only_looks_unusual_is_silent_and_passes_a_strict_reader() -> None:
    for data in (
        BASE + b"trailer of a camera" * 40,
        BASE + BASE,  # as in a file of several pictures
        insert(BASE, 2, b"\xff\xff\xff"),  # fill bytes
        insert(BASE, 2, jpeg_segment(0xE1, b"Exif\0\0garbage")),
        insert(BASE, 2, jpeg_segment(0xFE, b"\xff\xd9\xff\xda a comment")),
    ):
        told: list[str] = []
        assert np.array_equal(decode(data, strict=True, warn=told.append), pillow(data))
        assert told == []


def flipped(data: bytes) -> bytes:
    """Coded data with a changed byte, after which the decoder is out of step and through too early."""
    place = places(data, b"\xff\xda")[0] + 300
    return data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]


DAMAGED = {
    "no end marker": BASE[:-2],
    "last byte": BASE[:-3],
    "half": BASE[: len(BASE) // 2],
    "half, with an end marker": BASE[: len(BASE) // 2] + END,
    "progressive half, with an end marker": PROGRESSIVE[: len(PROGRESSIVE) * 2 // 3] + END,
    "JFIF 2.01 hides the half": HARMLESS["JFIF 2.01"][0][: len(BASE) // 2] + END,
    "spare bytes in the header hide the half": HARMLESS["between segments"][0][: len(BASE) // 2] + END,
    "spare bytes between scans hide the cut": HARMLESS["between scans"][0][:-30] + END,
    "spare rows hide the cut": with_spare_rows(9, slice(2, 6))[:-300] + END,
    "a row is missing": ROWS[: restarts(ROWS)[2]] + ROWS[restarts(ROWS)[3] :],
    "out of step": flipped(save(noise(48, 80), "JPEG", quality=90)),
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_jpegs_are_errors(name: str, strict: bool) -> None:
    for function in (decode, check_image):
        with pytest.raises(ImageError, match="corrupt or truncated JPEG"):
            function(DAMAGED[name], strict=strict)


def test_the_traps_are_traps() -> None:
    """Pillow and OpenCV return pictures for these, with a grey part or another fault."""
    for name in ("half, with an end marker", "JFIF 2.01 hides the half", "spare rows hide the cut", "out of step"):
        data = DAMAGED[name]
        assert pillow(data).size
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None


PNG = save(noise(), "PNG")
HEADER, PIXELS = PNG[8:33], dict(png_chunks(PNG))[b"IDAT"]


def png(*chunks: bytes) -> bytes:
    return PNG[:8] + HEADER + b"".join(chunks) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (PNG + b"x" * 3, "bytes after the end"),
        (PNG + b"x" * 500, "bytes after the end"),
        (png(png_chunk(b"tEXt", b"Comment\0hello", b"abcd"), png_chunk(b"IDAT", PIXELS)), "an optional PNG chunk"),
        (png(png_chunk(b"iCCP", b"icc\0\0garbage", b"abcd"), png_chunk(b"IDAT", PIXELS)), "an optional PNG chunk"),
        (png(png_chunk(b"IDAT", PIXELS), png_chunk(b"tIME", bytes(7), b"abcd")), "an optional PNG chunk"),
        (save(noise(), "WEBP", lossless=True) + b"xyz", "bytes after the end"),
    ],
)
def test_harmless_png_and_webp_are_read_and_told_of(data: bytes, what: str, capfd: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    assert np.array_equal(decode(data, warn=told.append), noise())
    check_image(data, warn=told.append)
    assert len(told) == 2
    assert all(each.startswith(what) for each in told)
    for function in (decode, check_image):
        with pytest.raises(ImageError, match=what):
            function(data, strict=True)
    assert capfd.readouterr().err == ""  # libpng would print a line an image


def test_a_broken_colour_profile_is_no_matter() -> None:
    assert np.array_equal(decode(png(png_chunk(b"iCCP", b"icc\0\0garbage"), png_chunk(b"IDAT", PIXELS))), noise())


@pytest.mark.parametrize(
    "data",
    [
        PNG[:-12],
        PNG[:-4],
        PNG[: len(PNG) // 2],
        png(png_chunk(b"IDAT", PIXELS[: len(PIXELS) // 2])),
        png(png_chunk(b"IDAT", PIXELS[:-4] + b"abcd")),
        png(png_chunk(b"IDAT", PIXELS, b"abcd")),
        png(png_chunk(b"IDAT", PIXELS[:900] + bytes([PIXELS[900] ^ 255]) + PIXELS[901:])),
        png(),
        PNG[:8] + png_chunk(b"CgBI", bytes(4)) + PNG[8:],
    ],
    ids=["no end", "end cut", "half", "half of the pixels", "sum", "checksum", "flip", "no pixels", "Apple's"],
)
def test_damaged_pngs_are_errors(data: bytes) -> None:
    for function in (decode, check_image):
        with pytest.raises(ImageError, match="PNG"):
            function(data)


def test_a_bitmap_is_judged_by_its_pixels_and_not_by_the_length_it_claims() -> None:
    data = save(noise(), "BMP")
    for length in (0, 7, len(data) + 2, 2**32 - 1):
        claims = data[:2] + struct.pack("<I", length) + data[6:]
        assert np.array_equal(decode(claims, strict=True), noise())
        with pytest.raises(ImageError, match="truncated BMP"):
            decode(claims[:-1])
    assert np.array_equal(decode(data + b"xx"), noise())


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PPM", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_truncated_files_of_pillows_formats_are_errors(kind: str, keep: float) -> None:
    try:
        data = save(noise(), kind)
    except (OSError, KeyError, ValueError):
        pytest.skip(f"this Pillow writes no {kind}")
    for function in (decode, check_image):
        with pytest.raises(ImageError, match="truncated"):
            function(data[: int(len(data) * keep)])


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of what is wrong with a TIFF's tags
def test_no_bytes_crash_the_decoder() -> None:
    """Any file with any bytes changed is an image or an ImageError."""
    rng = np.random.default_rng(0)
    makers: list[Callable[[], bytes]] = [
        lambda kind=kind: save(noise(), kind) for kind in ("TIFF", "WEBP", "BMP", "PPM")
    ]
    makers += [lambda: BASE, lambda: PNG, lambda: HARMLESS["before every restart"][0], lambda: PROGRESSIVE]
    makers += [lambda: save(Image.fromarray(noise()).quantize(16), "GIF")]
    for make in makers:
        data = make()
        for _ in range(60):
            broken = bytearray(data[: rng.integers(len(data) // 2, len(data) + 1)])
            for place in rng.integers(2, len(broken), 3):
                broken[place] = rng.integers(0, 256)
            for function in (decode, check_image):
                try:
                    function(bytes(broken), max_pixels=10**6)
                except ImageError:
                    continue


def test_formats_hold_the_first_picture() -> None:
    first, second = Image.fromarray(noise()), Image.fromarray(255 - noise())
    for kind in ("TIFF", "GIF", "PNG", "WEBP", "MPO"):
        file = io.BytesIO()
        options = {"lossless": True} if kind == "WEBP" else {}
        first.save(file, kind, save_all=True, append_images=[second], **options)
        assert np.array_equal(decode(file.getvalue()), pillow(file.getvalue())), kind
