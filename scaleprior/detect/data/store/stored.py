"""The decoded images of one set in one size on the disk, which every process of the machine reads and adds to.

An image is a file of its own: the pixels and, behind them, a mark of what they were decoded from and their checksum. It
comes under its name whole, by a rename, so that a killed process leaves nothing that counts, and two that write the
same image do no harm. It is never changed, only replaced, so a reader sees one state of it. Reading is one call of the
system out of the page cache, which all processes share.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import logging
import math
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from scaleprior.detect.data.headers import Identity, file_identity
from scaleprior.detect.data.image_root import ImageRoot
from scaleprior.errors import UserError
from scaleprior.files import WriteError, atomic_path

__all__ = ["Shape", "Source", "StoredImages", "file_bytes", "names_digest", "source_of"]

logger = logging.getLogger(__name__)

Shape = tuple[int, ...]

Source = tuple[str, int, int, Identity]
"""Path, first byte and number of bytes (-1: all) of an encoded image, and what changes when that file changes."""

_TAIL = struct.Struct("<16sI")  # the mark, CRC-32 of the pixels
_BLOCK = 4096  # bytes, of which a file takes a whole number on the disk
_IN_A_FOLDER = 1000  # files
_SETTLED = 2 * 10**9  # ns: two changes of a file within this may carry one time on some file systems
_PATIENCE = 0.5  # seconds to wait for an image that another process is decoding
_POLL = 0.002  # seconds, about what a small image takes


def file_bytes(shape: Shape) -> int:
    """What an image of this shape takes on the disk."""
    return -(-(math.prod(shape) + _TAIL.size) // _BLOCK) * _BLOCK


def names_digest(images: Iterable[tuple[str, int, int]]) -> str:
    """Of a set's images by name and by the height and width that its annotations say, for a room's identities."""
    return hashlib.sha256(repr(list(images)).encode("utf-8", "surrogatepass")).hexdigest()


def source_of(root: ImageRoot, name: str) -> Source | None:
    """Where an encoded image is, and its file as it is now; None where reading it will be an error."""
    try:
        place = root.place(name)
    except UserError:
        return None
    identity = None if place is None else file_identity(place.path)
    if place is None or identity is None:
        return None
    return place.path, place.offset, -1 if place.size is None else place.size, identity


class StoredImages:
    """Images by their number in the set; safe between threads and processes.

    Args:
        folder: of the set.
        lock: an open file, held as long as this object lives, that tells others that the set is in use.
        shapes: of each image's uint8 array.
        room: bytes on the disk; the first images are stored, as far as these go.
    """

    def __init__(self, folder: Path, lock: IO[Any], shapes: Sequence[Shape], room: int) -> None:
        self._folder = folder
        self._lock = lock
        self._shapes = shapes
        ends = itertools.accumulate(map(file_bytes, shapes))
        self._count = sum(1 for _ in itertools.takewhile(lambda end: end <= room, ends))
        self._claims = open(folder / ".claims", "ab")  # noqa: SIM115 (as long as this object lives)
        self._proven: dict[int, bytes] = {}  # marks of the files whose checksum was seen to be right
        self._claimed_here = set[int]()
        self._threads = threading.Lock()
        self._closed = False  # to what is new

    def __len__(self) -> int:
        """How many images have room."""
        return self._count

    def load(
        self, index: int, source: Source | None, make: Callable[[], tuple[np.ndarray, bool]]
    ) -> tuple[np.ndarray, bool]:
        """Image ``index``, and whether it is stored now.

        Args:
            source: what ``make`` decodes, as it was before: pixels of a file that changes meanwhile lie under a mark
                that no file will have again.
            make: decodes it, and says whether it may be stored.
        """
        if source is None or index >= self._count:
            return make()[0], False
        mark = self._mark(index, source)
        found = self._read(index, mark)
        if found is not None:
            return found, True
        if self._closed or not _settled(source[3]):
            return make()[0], False
        with self._claimed(index):
            found = self._read(index, mark)  # by whom it was claimed, perhaps
            if found is not None:
                return found, True
            made, sound = make()
            return made, sound and self._write(index, mark, made)

    def _mark(self, index: int, source: Source) -> bytes:
        return hashlib.blake2b(repr((source, self._shapes[index])).encode("utf-8", "replace"), digest_size=16).digest()

    def _path(self, index: int) -> str:
        return f"{self._folder}/{index // _IN_A_FOLDER:03d}/{index:06d}"

    def _read(self, index: int, mark: bytes) -> np.ndarray | None:
        pixels, tail = np.empty(self._shapes[index], dtype=np.uint8), bytearray(_TAIL.size)
        try:
            descriptor = os.open(self._path(index), os.O_RDONLY)
            try:
                got = os.readv(descriptor, [pixels, tail])
            finally:
                os.close(descriptor)
        except OSError:
            return None
        found, checksum = _TAIL.unpack(tail)
        if got != pixels.nbytes + len(tail) or found != mark:
            return None
        # Once a process: what a power cut can leave under a name does not come about while the machine runs.
        if self._proven.get(index) != mark:
            if zlib.crc32(pixels) != checksum:
                return None
            self._proven[index] = mark
        return pixels

    def _write(self, index: int, mark: bytes, pixels: np.ndarray) -> bool:
        """Whether it could be."""
        assert (pixels.shape, pixels.dtype) == (self._shapes[index], np.uint8)
        path, pixels = Path(self._path(index)), np.ascontiguousarray(pixels)
        try:
            path.parent.mkdir(exist_ok=True)  # not the set's folder, if somebody removed that
            with (
                atomic_path(path, durable=False, size=pixels.nbytes + _TAIL.size) as temporary,
                open(temporary, "wb") as file,
            ):
                file.write(pixels)
                file.write(_TAIL.pack(mark, zlib.crc32(pixels)))
        except (OSError, WriteError) as e:
            if not self._closed:
                self._closed = True
                said = e.what if isinstance(e, WriteError) else e
                logger.warning("no more decoded images are stored, the others are decoded as without it: %s", said)
            return False
        self._proven[index] = mark
        return True

    @contextlib.contextmanager
    def _claimed(self, index: int) -> Iterator[None]:
        """Tell others that this thread decodes an image, or wait for the one that told so.

        For a moment only, and then go on without: that one may be halted, and two that decode an image do no harm.
        What a killed process claimed is free at once.
        """
        deadline = time.monotonic() + _PATIENCE
        while not (claimed := self._claim(index)) and time.monotonic() < deadline:
            time.sleep(_POLL)
        try:
            yield
        finally:
            if claimed:
                with contextlib.suppress(OSError):
                    fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, index)
                self._claimed_here.discard(index)

    def _claim(self, index: int) -> bool:
        with self._threads:  # the lock below keeps out other processes only
            if index in self._claimed_here:
                return False
            try:
                fcntl.lockf(self._claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, index)
            except OSError as e:
                if e.errno in (errno.EACCES, errno.EAGAIN):
                    return False
                # a file system without such locks does without
            self._claimed_here.add(index)
            return True


def _settled(identity: Identity) -> bool:
    """Whether a change of the file from now on would show in its times."""
    return time.time_ns() - max(identity[2:]) > _SETTLED
