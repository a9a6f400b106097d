"""``.npz`` without pickle: each array's own header is checked against its bytes before the array is allocated."""

from __future__ import annotations

import io
import lzma
import mmap
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import IO, Literal

import numpy as np

from scaleprior.backbones.readers.archives import member_start, open_archive
from scaleprior.backbones.readers.limits import LIMITS, Limits, RefusedFileError, check_name, check_shape
from scaleprior.errors import UserError
from scaleprior.parsing import open_regular
from scaleprior.wording import one_line

__all__ = ["load_npz"]

_PIECE = 1 << 20
_HEADER = 1 << 16  # bytes in which an array's own header must end


def load_npz(path: Path, *, limits: Limits = LIMITS) -> dict[str, np.ndarray]:
    """Arrays by name; uncompressed ones mapped and perhaps not aligned.

    Raises:
        RefusedFileError: an archive bomb, an array of objects, a shape beyond the bytes present, a damaged archive.
    """
    members = open_archive(path, limits=limits)
    names = [check_name(m.filename.removesuffix(".npy"), str(path), limits) for m in members]
    with open_regular(path, what="weights") as file:
        # A private mapping: what somebody writes into an array stays in memory.
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def read(member: zipfile.ZipInfo, name: str) -> np.ndarray:
        if member.compress_type == zipfile.ZIP_STORED:
            return _stored(data, member, name, path, limits)
        try:
            with zipfile.ZipFile(path) as archive, archive.open(member) as packed:
                return _unpacked(packed, member.file_size, name, path, limits)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError) as e:
            if isinstance(e, UserError):
                raise
            raise RefusedFileError("damaged", f"{path}: {name} is damaged: {one_line(e)}") from e

    return {name: read(member, name) for member, name in zip(members, names)}


def _header(file: IO[bytes], name: str, path: Path) -> tuple[tuple[int, ...], Literal["F", "C"], np.dtype]:
    """(shape, order, type) as the array's own header claims them."""
    try:
        version = np.lib.format.read_magic(file)
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        # literal_eval of at most 10,000 characters (NumPy's own limit)
        shape, fortran, dtype = reader(file)
    except (
        ValueError, LookupError, TypeError, SyntaxError, TokenError, MemoryError, RecursionError, ArithmeticError,
        AttributeError, EOFError,
    ) as e:  # fmt: skip
        raise RefusedFileError("damaged", f"{path}: {name} is not a NumPy array: {one_line(e, 120)}") from e
    if dtype.hasobject or dtype.kind not in "biuf":
        kind = one_line(dtype, 120)
        raise RefusedFileError("code", f"{path}: {name} is an array of {kind}, not of numbers")
    return shape, "F" if fortran else "C", dtype


def _stored(data: mmap.mmap, member: zipfile.ZipInfo, name: str, path: Path, limits: Limits) -> np.ndarray:
    """A member that is not compressed (``np.savez``), over the mapped file."""
    at = member.header_offset
    at = member_start(data[at : at + 30], member, len(data), path)
    content = np.frombuffer(data, np.uint8, count=member.file_size, offset=at)
    if zlib.crc32(content) != member.CRC:
        raise RefusedFileError("damaged", f"{path}: {name} is not what its checksum says")
    head = io.BytesIO(content[:_HEADER].tobytes())
    shape, order, dtype = _header(head, name, path)
    content = content[head.tell() :]
    if check_shape(shape, dtype.itemsize, len(content), name, str(path), limits) != len(content):
        raise RefusedFileError("damaged", f"{path}: {name} goes on behind its end")
    array = content.view(dtype).reshape(shape, order=order)
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def _unpacked(file: IO[bytes], size: int, name: str, path: Path, limits: Limits) -> np.ndarray:
    start = file.read(_HEADER)
    head = io.BytesIO(start)
    shape, order, dtype = _header(head, name, path)
    expected = check_shape(shape, dtype.itemsize, size - head.tell(), name, str(path), limits)
    # Filled piece by piece: memory follows the bytes that really come, not those that the headers promise.
    content = bytearray(start[head.tell() :])
    while piece := file.read(_PIECE):
        content += piece
        if len(content) > expected:
            raise RefusedFileError("damaged", f"{path}: {name} goes on behind its end")
    if len(content) != expected:
        raise RefusedFileError("damaged", f"{path}: {name} has {len(content)} of {expected} bytes")
    array = np.frombuffer(content, dtype).reshape(shape, order=order)
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))
