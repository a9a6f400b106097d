"""Zip archives of untrusted files (torch's and NumPy's): their directory checked before anything in them is read."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from scaleprior.backbones.readers.limits import LIMITS, Limits, RefusedFileError, check_name
from scaleprior.backbones.readers.strangers import CUT_OFF

__all__ = ["member_start", "open_archive"]


def open_archive(path: Path, *, limits: Limits = LIMITS) -> list[zipfile.ZipInfo]:
    """The members of a zip archive whose claims hold together; reads its directory only.

    Raises:
        RefusedFileError: damaged, too many members, two of one name, a name that leads out, or members that claim
            more bytes than the file has and compression explains.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as e:
        raise RefusedFileError("damaged", f"{path} is not a whole zip archive: {e}", hint=CUT_OFF) from e
    limits.check_keys(len(members), str(path))
    names = [check_name(m.filename, str(path), limits) for m in members]
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise RefusedFileError("duplicate", f"{path} holds {twice} twice")
    claimed, size = sum(m.file_size for m in members), path.stat().st_size
    if sum(m.compress_size for m in members) > size:
        raise RefusedFileError("size", f"{path}: its members overlap, as in an archive bomb")
    # Trained weights are noise: deflate saves a tenth of them. Factor 20 leaves room for padding and masks.
    if claimed > max(20 * size, 1 << 20) or claimed > limits.file_bytes:
        raise RefusedFileError("size", f"{path} has {size:,} bytes and would unpack to {claimed:,}, an archive bomb")
    return members


def member_start(header: bytes, member: zipfile.ZipInfo, size: int, path: Path) -> int:
    """Where an uncompressed member's bytes begin in an archive.

    Args:
        header: the 30 bytes at ``member.header_offset``.
        size: of the archive in bytes.

    Raises:
        RefusedFileError: it is encrypted, or its own header is not where or what the directory says.
    """
    if len(header) < 30 or header[:4] != b"PK\x03\x04" or member.flag_bits & 1:
        raise RefusedFileError("damaged", f"{path}: {member.filename} has no header, or is encrypted")
    start = member.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
    if start + member.file_size > size or member.file_size != member.compress_size:
        raise RefusedFileError("damaged", f"{path}: {member.filename} lies outside the file")
    return start
