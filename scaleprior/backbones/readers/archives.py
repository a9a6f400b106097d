"""Zip archives of untrusted files (torch's and NumPy's): their directory checked before anything in them is read."""

from __future__ import annotations

import io
import struct
import zipfile
from collections import Counter
from pathlib import Path
from typing import cast

from scaleprior.backbones.readers.limits import LIMITS, Limits, RefusedFileError, check_name
from scaleprior.backbones.readers.strangers import CUT_OFF
from scaleprior.errors import UserError
from scaleprior.parsing import open_regular
from scaleprior.wording import one_line

__all__ = ["member_start", "open_archive"]

_ENTRY = 46  # bytes of a member in the directory, before its name
_EXTRA = 4096  # of fields behind a name there, at most; zip64's has 28, and torch pads elsewhere


class _Watched(io.BufferedReader):
    """A file that gives :mod:`zipfile` no larger directory than is read; it takes all of that at once."""

    def __init__(self, path: Path, limits: Limits) -> None:
        super().__init__(cast(io.RawIOBase, open_regular(path, what="weights", buffering=0)))
        self.where, self.limits, self.length = str(path), limits, path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = max(self.length - self.tell(), 0)  # which zipfile asks for at the end of the file
        if size > self.limits.header_bytes:
            raise RefusedFileError("size", f"{self.where}: its directory claims {size:,} bytes")
        data = super().read(size)
        if data.startswith(b"PK\x01\x02"):
            self._check(data)
        return data

    def _check(self, directory: bytes) -> None:
        """Each member costs ten times its bytes in memory, and the time for one's fields grows with their square."""
        at = count = 0
        while directory.startswith(b"PK\x01\x02", at) and at + _ENTRY <= len(directory):
            name, extra, comment = struct.unpack_from("<HHH", directory, at + 28)
            if extra > _EXTRA:
                raise RefusedFileError("size", f"{self.where}: a member has {extra:,} bytes of further fields")
            at, count = at + _ENTRY + name + extra + comment, count + 1
            self.limits.check_keys(count, self.where)


def open_archive(path: Path, *, limits: Limits = LIMITS) -> list[zipfile.ZipInfo]:
    """The members of a zip archive whose claims hold together; reads its directory only.

    Raises:
        RefusedFileError: damaged, too many members, two of one name, a name that leads out, or members that claim
            more bytes than the file has and compression explains.
    """
    try:
        with _Watched(path, limits) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except UserError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error) as e:
        raise RefusedFileError("damaged", f"{path} is not a whole zip archive: {one_line(e)}", hint=CUT_OFF) from e
    names = Counter(check_name(m.filename, str(path), limits) for m in members)
    if len(names) != len(members):
        raise RefusedFileError("duplicate", f"{path} holds {names.most_common(1)[0][0]} twice")
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
