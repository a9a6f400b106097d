"""What a file is that is not an image we read: the usual finds in data sets, each with what to do about it."""

from __future__ import annotations

import re

__all__ = ["describe_stranger", "is_avif"]

_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the file itself (run: git lfs pull)"),
    (b"/annex/objects/", "a git-annex pointer, not the file itself (run: git annex get)"),
    (b"8BPS", "a Photoshop document (export it as PNG or JPEG)"),
    (b"%PDF", "a PDF document (export its pages as PNG)"),
    (b"\xff\x0a", "a JPEG XL image, which is not read (convert it to PNG)"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image, which is not read (convert it to PNG)"),
    (b"\x1aE\xdf\xa3", "a video (extract its frames as images)"),
    (b"\0\0\x01\xba", "a video (extract its frames as images)"),
    (b"FLV\x01", "a video (extract its frames as images)"),
    (b"\x1f\x8b", "a gzip archive (unpack it)"),
    (b"PK\x03\x04", "a ZIP archive (unpack it)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive (unpack it)"),
    (b"Rar!", "a RAR archive (unpack it)"),
    (b"\x93NUMPY", "a NumPy array (write it as PNG)"),
    (b"\x76\x2f\x31\x01", "an OpenEXR image, which has no fixed range of values (write it as PNG)"),
    (b"#?RADIANCE", "a Radiance image, which has no fixed range of values (write it as PNG)"),
    (b"\0\0\x01\0", "an icon file, which is not read (convert it to PNG)"),
    (b"\x00\x05\x16\x07", "a macOS resource fork (a ._ file), not an image (delete it)"),
)
_BRANDS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    ((b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"),
     "a HEIC image, which is not read (convert it to JPEG or PNG, for example: heif-convert IN.heic OUT.png)"),
    ((b"",), "a video (extract its frames as images)"),
)  # fmt: skip
_HTML = re.compile(rb"<!doctype html|<html|<head|<body", re.IGNORECASE)
_SVG = re.compile(rb"<svg[\s>]", re.IGNORECASE)


def is_avif(data: bytes) -> bool:
    """Whether a file of boxes is AVIF: by its first brand, or a general one with AVIF among the compatible ones."""
    brands = data[16 : min(int.from_bytes(data[:4], "big"), 256)]
    return data[8:12] in (b"avif", b"avis") or (data[8:12] in (b"mif1", b"msf1") and b"avif" in brands)


def describe_stranger(data: bytes) -> str:
    """A few words on bytes that no reader of ours takes for an image; the remedy in brackets."""
    if not data:
        return "an empty file"
    for start, what in _STARTS:
        if data.startswith(start):
            return what
    if data[4:8] == b"ftyp":
        if is_avif(data):
            return "an AVIF image, which this Pillow cannot read (install Pillow 11.3 or newer)"
        return next(what for brands, what in _BRANDS if data[8:12].startswith(brands))
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return "a video (extract its frames as images)"
    if data[128:132] == b"DICM":
        return "a DICOM file (export its images as PNG)"
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    if head[:1] == b"<":
        if _SVG.search(head):
            return "an SVG drawing, which has no pixels (draw it as PNG)"
        page = "an HTML page" if _HTML.search(head) else "an XML text"
        return f"{page}, perhaps the answer of a failed download (download the image again)"
    if head[:1] in (b"{", b"["):
        return "a JSON text"
    if not data.strip(b"\0"):
        return f"{len(data)} zero bytes, perhaps of a failed download (download the image again)"
    return f"not an image of a known format (it starts with {data[:8].hex()})"
