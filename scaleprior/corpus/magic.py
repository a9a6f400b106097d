"""What the first bytes of a file say it is: an image, or an archive that must be unpacked first."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import NamedTuple

from scaleprior.corpus.images import IMAGE_SUFFIXES
from scaleprior.errors import UserError
from scaleprior.parsing import open_regular

__all__ = [
    "HEAD",
    "IMAGE_LIKE",
    "compressed",
    "head_of",
    "image_suffix",
    "is_image",
    "refuse_compressed",
    "refuse_pointer",
    "unpacked",
    "unpacking",
]

HEAD = 32
"""Bytes that are enough to tell."""

IMAGE_LIKE = IMAGE_SUFFIXES | {".heic", ".heif", ".jxl", ".dng"}
"""Suffixes of images, of formats that are read and that are not: such a file is to be an image, whatever it holds."""

_IMAGES = (
    (".jpg", b"\xff\xd8\xff"),
    (".png", b"\x89PNG\r\n\x1a\n"),
    (".gif", b"GIF87a"),
    (".gif", b"GIF89a"),
    (".tif", b"II*\0"),
    (".tif", b"MM\0*"),
)
_LFS_POINTER = b"version https://git-lfs"
_ZIPPED = frozenset({".xlsx", ".ods", ".npz", ".pt", ".pth", ".docx"})  # zip files whose parts are no images
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # sizes of the header behind the file header, one a version


class _Archive(NamedTuple):
    suffixes: tuple[str, ...]
    magic: bytes
    beside: str  # the command where {0} has one of the suffixes
    to: str  # the command that takes any name and writes {1}


_ARCHIVES = (
    _Archive((".gz", ".tgz", ".taz"), b"\x1f\x8b\x08", "gunzip -k {0}", "gunzip -c {0} > {1}"),
    _Archive((".zst", ".tzst"), b"\x28\xb5\x2f\xfd", "zstd -d {0}", "zstd -d {0} -o {1}"),
    _Archive((".xz", ".txz"), b"\xfd7zXZ\x00", "xz -dk {0}", "xz -dc {0} > {1}"),
    _Archive((".bz2", ".tbz", ".tbz2"), b"BZh", "bunzip2 -k {0}", "bunzip2 -c {0} > {1}"),
    _Archive((".lz4",), b"\x04\x22\x4d\x18", "lz4 -d {0}", "lz4 -d {0} {1}"),
    _Archive((".zip",), b"PK\x03\x04", "unzip {0} -d {1}", "unzip {0} -d {1}"),
    _Archive((".7z",), b"7z\xbc\xaf\x27\x1c", "7z x {0} -o{1}", "7z x {0} -o{1}"),
    _Archive((".rar",), b"Rar!\x1a\x07", "unrar x {0} {1}/", "unrar x {0} {1}/"),
)


def is_image(head: bytes) -> bool:
    """Whether a file that starts with ``head`` (``HEAD`` bytes) is an image of a usual format."""
    return image_suffix(head) != ""


def image_suffix(head: bytes) -> str:
    """What a file that starts with ``head`` should be called: ``.jpg``, ``.png``, ...; "" if it is no image."""
    for suffix, start in _IMAGES:
        if head.startswith(start):
            return suffix
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ".webp"
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return ".avif"
    # text may start with BM, too
    return ".bmp" if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS else ""


def compressed(path: str | Path) -> bool:
    """Whether a file is compressed or a zip: by its first bytes, or by its suffix where it cannot be read."""
    return _archive(path) is not None


def unpacked(path: str | Path) -> Path:
    """The file, or for a zip the folder, that unpacking ``path`` by :func:`unpacking` makes."""
    stem, suffix = os.path.splitext(path)
    if suffix.lower() not in _of(path).suffixes:  # such as a gzip that is called .tar
        return Path(f"{stem}-unpacked{suffix}")
    return Path(f"{stem}.tar" if suffix.lower().startswith(".t") else stem)


def unpacking(path: str | Path) -> str:
    """The command that unpacks the archive ``path`` beside itself and keeps it."""
    archive = _of(path)
    known = os.path.splitext(path)[1].lower() in archive.suffixes
    command = archive.beside if known else archive.to
    return command.format(shlex.quote(str(path)), shlex.quote(str(unpacked(path))))


def refuse_compressed(path: str | Path) -> None:
    """Raise UserError with the command that unpacks ``path``, if it is compressed: images are read in place."""
    if compressed(path):
        raise UserError(
            f"{path} is compressed, and images are read from their place in a file",
            hint=f"unpack it: {unpacking(path)}",
        )


def refuse_pointer(path: str | Path) -> None:
    """Raise UserError if ``path`` is what Git leaves of a large file that has not been fetched."""
    if head_of(path).startswith(_LFS_POINTER):
        raise UserError(f"{path} is a Git LFS pointer, not the file itself", hint="fetch it: git lfs pull")


def _archive(path: str | Path) -> _Archive | None:
    suffix, head = os.path.splitext(path)[1].lower(), head_of(path)
    if suffix in _ZIPPED:
        return None
    by_content = next((a for a in _ARCHIVES if head.startswith(a.magic)), None)
    return by_content or next((a for a in _ARCHIVES if suffix in a.suffixes and not head), None)


def _of(path: str | Path) -> _Archive:
    archive = _archive(path)
    assert archive is not None, "ask only about archives"
    return archive


def head_of(path: str | Path, size: int = HEAD) -> bytes:
    """The first bytes of a file; none of what cannot be read, or is a pipe or a device, which might never answer."""
    try:
        with open_regular(path) as file:
            return file.read(size)
    except (UserError, OSError):
        return b""
