"""``.npz`` without pickle: each array's own header is checked against its bytes before the array is allocated."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from scaleprior.backbones.readers.limits import LIMITS, Limits, RefusedFileError, check_name, check_shape
from scaleprior.backbones.readers.torch_files import open_archive

__all__ = ["load_npz"]

_PIECE = 1 << 20


def load_npz(path: Path, *, limits: Limits = LIMITS) -> dict[str, np.ndarray]:
    """Arrays by name.

    Raises:
        RefusedFileError: an archive bomb, an array of objects, a shape beyond the bytes present, a damaged archive.
    """
    arrays = {}
    members = open_archive(path, limits=limits)
    with zipfile.ZipFile(path) as archive:
        for member in members:
            name = check_name(member.filename.removesuffix(".npy"), str(path), limits)
            try:
                with archive.open(member) as file:
                    arrays[name] = _read(file, member.file_size, name, path, limits)
            except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError) as e:
                raise RefusedFileError("damaged", f"{path}: {name} is damaged: {e}") from e
    return arrays


def _read(file: zipfile.ZipExtFile, size: int, name: str, path: Path, limits: Limits) -> np.ndarray:
    try:
        version = np.lib.format.read_magic(file)
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        # literal_eval of at most 10,000 characters (NumPy's own limit)
        shape, fortran, dtype = reader(file)
    except (ValueError, KeyError, TypeError, SyntaxError, MemoryError, RecursionError) as e:
        raise RefusedFileError("damaged", f"{path}: {name} is not a NumPy array: {str(e)[:120]}") from e
    if dtype.hasobject or dtype.kind not in "biuf":
        raise RefusedFileError("code", f"{path}: {name} is an array of {dtype}, not of numbers")
    expected = check_shape(shape, dtype.itemsize, size - file.tell(), name, str(path), limits)
    # Filled piece by piece: memory follows the bytes that really come, not those that the headers promise.
    content = bytearray()
    while piece := file.read(_PIECE):
        content += piece
        if len(content) > expected:
            raise RefusedFileError("damaged", f"{path}: {name} goes on behind its end")
    if len(content) != expected:
        raise RefusedFileError("damaged", f"{path}: {name} has {len(content)} of {expected} bytes")
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))
