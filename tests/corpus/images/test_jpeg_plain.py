"""Which JPEGs may go to a decoder that is not ours: those that another libjpeg, without any repair, reads alike."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from scaleprior.corpus.images import decode, inspect_image
from scaleprior.corpus.images.jpeg_plain import plain_jpeg
from scaleprior.corpus.images.orientation import turn, upright
from tests.corpus.images.files import exif, insert, jpeg_segment, noise, save
from tests.corpus.images.test_faults import BASE, HARMLESS, PROGRESSIVE, ROWS

CMYK = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)


def jpeg(pixels: np.ndarray | None = None, **options: Any) -> bytes:
    return save(noise() if pixels is None else pixels, "JPEG", **options)


def replaced(data: bytes, marker: int, offset: int, value: int) -> bytes:
    """One byte of the first segment with this marker, counted from its body."""
    place = data.index(bytes([0xFF, marker])) + 4 + offset
    return data[:place] + bytes([value]) + data[place + 1 :]


PLAIN = {
    "baseline": BASE,
    "progressive": PROGRESSIVE,
    "restarts": ROWS,
    "grey": jpeg(noise()[..., 0]),
    "4:4:4": jpeg(subsampling=0),
    "4:2:2": jpeg(subsampling=1),
    "turned": jpeg(exif=exif(6)),
    "comment": insert(BASE, 2, jpeg_segment(0xFE, b"no \xff\xd9 of its own")),
    "colour profile": jpeg(icc_profile=b"x" * 1000),
    "one pixel": jpeg(noise(1, 1)),
}
OTHER = {
    "no image": b"",
    "PNG": save(noise(), "PNG"),
    "inks": save(Image.fromarray(CMYK, "CMYK"), "JPEG"),
    "kept RGB": jpeg(keep_rgb=True),
    "cut short": BASE[:-2],
    "cut in its header": BASE[:100] + b"\xff\xd9",
    "bytes after the end": BASE + b"\0",
    "12 bits": replaced(BASE, 0xC0, 0, 12),
    "extended": BASE.replace(b"\xff\xc0", b"\xff\xc1", 1),
    "arithmetic": BASE.replace(b"\xff\xc0", b"\xff\xc9", 1),
    "no height": replaced(replaced(BASE, 0xC0, 1, 0), 0xC0, 2, 0),
    "odd subsampling": replaced(BASE, 0xC0, 7, 0x31),
    "odd names": replaced(BASE, 0xC0, 6, ord("R")),
    "JFIF 2.01": HARMLESS["JFIF 2.01"][0],
    "between segments": HARMLESS["between segments"][0],
    "before the scan": HARMLESS["before the scan"][0],
    "scan's coefficients": HARMLESS["scan's coefficients"][0],
    "Adobe's opinion": insert(BASE, 2, jpeg_segment(0xEE, b"Adobe\0\x64\0\0\0\0\0")),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_ones_are_read_alike_by_another_decoder(name: str) -> None:
    data = PLAIN[name]
    header = plain_jpeg(data)
    assert header is not None
    assert header.facts() == inspect_image(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        theirs = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    ours = decode(data, upright=False)
    assert np.abs(np.asarray(theirs).transpose(1, 2, 0).astype(int) - ours).max() <= 1


@pytest.mark.parametrize("name", OTHER)
def test_others_are_not(name: str) -> None:
    assert plain_jpeg(OTHER[name]) is None


def test_one_of_too_many_pixels_is_not() -> None:
    assert plain_jpeg(BASE, max_pixels=24 * 40) is not None
    assert plain_jpeg(BASE, max_pixels=24 * 40 - 1) is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turn_is_what_upright_does(orientation: int) -> None:
    transposed, axes = turn(orientation)
    image = noise()
    turned = image.transpose(1, 0, 2) if transposed else image
    assert np.array_equal(np.flip(turned, axes), upright(image, orientation))
