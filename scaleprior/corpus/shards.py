"""Tar files as image stores: reading members by offset, and writing WebDataset-compatible shards.

A shard is a plain ustar archive whose images come in hash order, each followed by its JSON: ``KEY.jpg``, ``KEY.json``.
WebDataset's readers group the two by KEY; ours read an image by its byte offset without touching the rest.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import stat
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaleprior.corpus.tar_files import TarMember
from scaleprior.errors import FailureError, UserError
from scaleprior.files import SHORTAGES, atomic_path
from scaleprior.places import inside
from scaleprior.wording import one_line

__all__ = ["ByteReader", "ShardWriter"]


_UNASKED = 16 << 20  # bytes that are read without asking how long the file is


class _Descriptor:
    """An open file that closes when the last user lets go, so the cache may drop it while another thread reads."""

    def __init__(self, path: str) -> None:
        # a pipe would wait for who writes into it; of a regular file O_NONBLOCK changes nothing
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(self.number).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class ByteReader:
    """Reads byte ranges of files below a root, keeping the most recently used files open.

    Reads use ``pread``: no file position is shared, so threads and forked workers may read at once. A pickled reader
    arrives with no open files.

    Args:
        root: folder that paths are relative to, and do not leave; "" takes whole paths.
        open_files: how many descriptors to keep.
    """

    def __init__(self, root: str | Path, *, open_files: int = 32) -> None:
        self.root: str = str(root)
        self._limit = open_files
        self._open: OrderedDict[str, _Descriptor] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reader, (self.root, self._limit)

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Bytes [offset, offset + size) of the file ``path``.

        Raises:
            UserError: the path leads out of the root, the file is missing, unreadable or no regular one, or ends
                before the range does.
            FailureError: the process has no descriptors or memory left; nothing is wrong with the file.
        """
        try:
            descriptor = self._descriptor(path)  # held by name: another thread may drop it from the cache meanwhile
            # pread takes the memory that it is asked for before it looks
            there = size if size <= _UNASKED else min(size, os.fstat(descriptor.number).st_size - offset)
            data = os.pread(descriptor.number, max(there, 0), offset) if size >= 0 and offset >= 0 else b""
        except (OSError, OverflowError, ValueError) as e:  # the latter two of a place beyond 64 bits, a name with a NUL
            reason = (e.strerror if isinstance(e, OSError) else None) or one_line(e)
            said = f"cannot read {os.path.join(self.root, path)}: {reason}"
            # whoever passes over images that are damaged must not pass over this one
            if isinstance(e, OSError) and e.errno in SHORTAGES:
                raise FailureError(said, hint="raise the limit (ulimit -n), or free memory, and run again") from e
            raise UserError(said, hint="check the data") from e
        if len(data) != size:
            raise UserError(
                f"{os.path.join(self.root, path)} ends at byte {offset + len(data)}, expected {offset + size}",
                hint="the file has changed since the index was built; build the index again",
            )
        return data

    def _descriptor(self, path: str) -> _Descriptor:
        with self._lock:
            found = self._open.pop(path, None) or self._opened(path)
            self._open[path] = found
            if len(self._open) > self._limit:
                self._open.popitem(last=False)
        return found

    def _opened(self, path: str) -> _Descriptor:
        # an empty root is that of who names whole paths
        where = inside(self.root, path, what="an image's file") if self.root else path
        return _Descriptor(str(where))


def _reader(root: str, open_files: int) -> ByteReader:
    return ByteReader(root, open_files=open_files)


class ShardWriter:
    """Writes images into numbered WebDataset tars; each appears under its final name only when complete.

    Use as a context manager; leaving it by an exception discards the shard in progress.

    Args:
        folder: where the shards go; made if absent.
        prefix: shards are called ``PREFIX-000000.tar``, ``PREFIX-000001.tar``, ...
        images_per_shard: images in each but the last.
    """

    def __init__(self, folder: str | Path, *, prefix: str = "shard", images_per_shard: int = 10_000) -> None:
        if images_per_shard < 1:
            raise UserError(f"images_per_shard is {images_per_shard}", hint="give at least 1")
        self.folder: Path = Path(folder)
        self._prefix = prefix
        self._limit = images_per_shard
        self._shards = 0
        self._images = 0
        self._tar: tarfile.TarFile | None = None
        self._open = contextlib.ExitStack()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool | None:
        return self._open.__exit__(kind, error, trace)

    def write(self, key: str, image: bytes, meta: Mapping[str, Any], *, suffix: str = ".jpg") -> tuple[str, TarMember]:
        """Append one image and its JSON.

        Args:
            key: relative POSIX path without a dot in its last part (WebDataset cuts the key at the first dot).
            image: encoded bytes.
            meta: goes into ``KEY.json``.
            suffix: the image's file suffix.

        Returns:
            The shard's file name and the image's member.

        Raises:
            UserError: a key with a dot.
            FailureError: the disk is full.
        """
        if "." in key.rsplit("/", 1)[-1]:
            raise UserError(f"shard key {key!r} has a dot", hint="WebDataset cuts keys at the first dot; leave it out")
        if self._images == self._limit:
            self._open.close()
            self._tar = None
        if self._tar is None:
            self._start_shard()
        try:
            member = self._append(key + suffix, image)
            self._append(key + ".json", json.dumps(dict(meta), sort_keys=True).encode("utf-8"))
        except OSError as e:
            raise FailureError(f"cannot write {self.folder}: {e.strerror or e}", hint="free space, run again") from e
        self._images += 1
        return self._name, member

    def _start_shard(self) -> None:
        self._name = f"{self._prefix}-{self._shards:06d}.tar"
        self._shards += 1
        self._images = 0
        self._open = contextlib.ExitStack()
        temporary = self._open.enter_context(atomic_path(self.folder / self._name))
        self._tar = self._open.enter_context(tarfile.TarFile(temporary, "w", format=tarfile.USTAR_FORMAT))

    def _append(self, name: str, data: bytes) -> TarMember:
        assert self._tar is not None
        # TarInfo's defaults (owner 0, mode 644, time 0) make the same images the same bytes
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))
        blocks = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return TarMember(name, self._tar.offset - blocks, len(data))
