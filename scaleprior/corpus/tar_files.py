"""Listing tar files: where each member's bytes lie, so that images are read in place; nothing is extracted.

A tar inside a tar is listed at its place in the outer one. Links are resolved to the bytes that they lead to.
"""

from __future__ import annotations

import io
import os
import posixpath
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

from scaleprior.corpus.magic import refuse_compressed
from scaleprior.errors import UserError
from scaleprior.parsing import open_regular
from scaleprior.wording import one_line, shown

__all__ = ["LeftOut", "TarMember", "tar_members"]

LeftOut = Callable[[str, str], object]
"""Called with the kind, in words, and the name of each member that cannot be read in place."""

_HEADER = 1 << 20  # bytes of a name or of attributes: Linux allows 64 KiB of the latter
_GLOBAL = 100  # pax headers for all members; git writes one
_PADDED = 20 * tarfile.BLOCKSIZE  # GNU tar pads an archive to a multiple of this


class TarMember(NamedTuple):
    """A file inside a tar: its name without a leading ``./``, and where its bytes lie."""

    name: str
    offset: int
    size: int


def tar_members(
    path: str | Path, *, start: int = 0, size: int | None = None, left_out: LeftOut | None = None
) -> Iterator[TarMember]:
    """The files of an uncompressed tar in archive order, then its links to them, with the offsets of their bytes.

    Memory does not depend on the number of members, but on that of links. Names that are not UTF-8 and members without
    bytes of their own (devices, sparse files, links to something outside) are left out.

    Args:
        start, size: where the tar lies in the file ``path``, in bytes, for a tar in a tar; offsets count from the start
            of ``path``.
        left_out: told of each member that is left out.

    Raises:
        UserError: missing, compressed (names the command that unpacks it), truncated, or not a tar; names the path and
            the last good member.
    """
    if not start:
        refuse_compressed(path)
    links: dict[str, str] = {}
    for info, name in _headers(path, start, size):
        if info.islnk() or info.issym():
            links[name] = _target(info, name)
        elif not info.isreg() or info.issparse():
            if not info.isdir() and left_out is not None:
                left_out("sparse files, devices and pipes in tars", name)
        elif _readable(name, left_out):
            yield TarMember(name, start + info.offset_data, info.size)
    if links:
        yield from _linked(path, start, size, links, left_out)


def _linked(
    path: str | Path, start: int, size: int | None, links: dict[str, str], left_out: LeftOut | None
) -> Iterator[TarMember]:
    """The links, by a second pass over the headers: what they lead to may lie before or behind them."""
    ends = _ends(links)
    wanted, found = set(ends.values()), dict[str, tuple[int, int]]()
    for info, name in _headers(path, start, size):
        if name in wanted and info.isreg() and not info.issparse():
            found[name] = start + info.offset_data, info.size
    for name, end in ends.items():
        if end not in found:
            if left_out is not None:
                left_out("links in tars that lead to no file in their tar", name)
        elif _readable(name, left_out):
            yield TarMember(name, *found[end])


def _ends(links: dict[str, str]) -> dict[str, str]:
    """For each link the name at the end of its chain, each step of which is taken once; of a loop, one of its names."""
    ends: dict[str, str] = {}
    for first in links:
        chain: dict[str, None] = {}
        name = first
        while name in links and name not in chain and name not in ends:
            chain[name] = None
            name = links[name]
        ends.update(dict.fromkeys(chain, ends.get(name, name)))
    return ends


def _target(info: tarfile.TarInfo, name: str) -> str:
    """The member that a link leads to: a hard link names it from the top, a symbolic one from where it lies."""
    if info.islnk():
        return info.linkname.removeprefix("./")
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), info.linkname))


def _readable(name: str, left_out: LeftOut | None) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        kind = "names in tars that are not UTF-8"
    else:
        kind = "names in tars with a NUL" if "\0" in name else ""
    if kind and left_out is not None:
        left_out(kind, name)
    return not kind


def _headers(path: str | Path, start: int, size: int | None) -> Iterator[tuple[tarfile.TarInfo, str]]:
    """Every header with its name without ``./``."""
    last = "its start"
    try:
        with (
            open_regular(path, what="tar file") as whole,
            tarfile.open(fileobj=cast("IO[bytes]", _Headers(_window(whole, start, size))), mode="r:") as tar,
        ):
            for info in tar:
                # tarfile keeps every member it has seen; a shard of a billion-image corpus must not fill the memory
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue] (typeshed lacks it)
                if info.size < 0:  # the next header would lie before this one, without end
                    raise tarfile.ReadError(f"a member of {info.size} bytes")
                if len(tar.pax_headers) > _GLOBAL:  # each member has a copy of them
                    raise tarfile.ReadError(f"{len(tar.pax_headers):,} headers that are meant for all members")
                name = info.name.removeprefix("./")
                last = shown(name)
                yield info, name
            _check_end(tar)
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror or e}", hint="check the file") from e
    except UserError:
        raise
    # tarfile's own of damaged headers, of which it converts numbers and slices maps
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError, TypeError, RecursionError) as e:
        said = f"{path} is not a complete uncompressed tar: {one_line(e)}, after {last}"
        raise UserError(said, hint="copy it again") from e


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise ReadError unless the archive ends here: ``tarfile`` takes a damaged header for the end."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    rest = tar.fileobj.read(_PADDED + tarfile.BLOCKSIZE)
    if any(rest[: tarfile.BLOCKSIZE]):
        raise tarfile.ReadError("a damaged header")
    if any(rest[at + 257 : at + 262] == b"ustar" for at in range(0, len(rest), tarfile.BLOCKSIZE)):
        # cat a.tar b.tar makes a file of which every reader sees the first part alone
        raise tarfile.ReadError("a second tar follows the end of the first")


def _window(file: IO[bytes], start: int, size: int | None) -> IO[bytes]:
    return file if size is None else io.BufferedReader(_Window(file, start, size))


class _Headers:
    """A file of which tarfile reads headers, that are short: a name or attributes of gigabytes are read by nobody."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """Raises ReadError: more than a header."""
        if not 0 <= size <= _HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)


class _Window(io.RawIOBase):
    """The bytes [start, start + size) of a file, as a file."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._file.seek(self._start + self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
