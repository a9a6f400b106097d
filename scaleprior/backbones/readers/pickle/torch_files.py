"""``.pth``, ``.pt``, ``.bin``: torch's zip format (1.6 and later) and the older one of consecutive pickles.

``torch.load`` is not used. The pickle is followed by :mod:`machine`, which knows fewer names than torch's
``weights_only`` reader and runs none; every tensor's claim is checked against its storage; then tensors are laid over
the mapped file, or arrays where its numbers are not aligned (most of the older format's).
"""

from __future__ import annotations

import io
import mmap
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np

from scaleprior.backbones.readers.archives import member_start, open_archive
from scaleprior.backbones.readers.limits import LIMITS, Limits, RefusedFileError
from scaleprior.backbones.readers.pickle.load import guarded, torch_machine
from scaleprior.backbones.readers.pickle.names import Storage, TensorRecord, as_text
from scaleprior.backbones.readers.pickle.plain import Tree, plain
from scaleprior.parsing import open_regular

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LEGACY_MAGIC", "load_torch_legacy", "load_torch_zip"]

Numbers = Union[np.ndarray, "Tensor"]
"""A tensor; or an array, where its numbers are not aligned in the file."""

LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The pickled magic number that files older than torch 1.6 begin with, after the protocol's two bytes."""


def load_torch_zip(path: Path, *, limits: Limits = LIMITS) -> Tree:
    """The content of a zip file of torch, also a TorchScript archive, with tensors mapped, not copied.

    Raises:
        RefusedFileError: claims beyond the limits or the file, calls of what attacks call, or it is damaged.
    """
    members = {m.filename: m for m in open_archive(path, limits=limits)}
    folder = _folder(members, path)
    pickled = members[f"{folder}data.pkl"]
    if pickled.file_size > limits.header_bytes:
        raise RefusedFileError("size", f"{path}: its data.pkl has {pickled.file_size:,} bytes")
    with open_regular(path, what="weights") as file:
        # A private mapping: what somebody writes into a tensor stays in memory.
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def start_of(member: zipfile.ZipInfo) -> int:
        at = member.header_offset
        return member_start(data[at : at + 30], member, len(data), path)

    at = start_of(pickled)
    structure = data[at : at + pickled.file_size]
    if zlib.crc32(structure) != pickled.CRC:
        raise RefusedFileError("damaged", f"{path}: its data.pkl is not what its checksum says")
    if order := members.get(f"{folder}byteorder"):
        at = start_of(order)
        if data[at : at + 6] != b"little":
            raise RefusedFileError("damaged", f"{path} was written by a machine of another byte order")

    described: dict[str, Storage] = {}

    def stored(storage: Storage) -> int:
        member = members.get(f"{folder}data/{storage.key}")
        # One storage of several types or lengths would be copied for each where it is not aligned.
        return member.file_size if member and described.setdefault(storage.key, storage) == storage else 0

    flat: dict[Storage, Numbers] = {}

    def tensor(record: TensorRecord) -> Numbers:
        storage = record.storage
        if storage not in flat:
            start = start_of(members[f"{folder}data/{storage.key}"]) if storage.elements else 0
            flat[storage] = _numbers(data, storage, start)
        return _laid(flat[storage], record)

    machine = torch_machine(io.BytesIO(structure), len(structure), stored, limits)
    return guarded(str(path), lambda: plain(machine.load(), limits, len(data), tensor))


def _folder(members: dict[str, zipfile.ZipInfo], path: Path) -> str:
    """The prefix of the members that matter; TorchScript's programs (code/, constants) beside them are not read."""
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise RefusedFileError("damaged", f"{path} is not a torch file: it has {len(pickles)} data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    read = (f"{folder}data.pkl", f"{folder}byteorder", f"{folder}data/")
    packed = [name for name, m in members.items() if m.compress_type != zipfile.ZIP_STORED and name.startswith(read)]
    if packed:
        raise RefusedFileError("damaged", f"{path}: {packed[0]} is compressed, which torch never does")
    return folder


def _numbers(data: mmap.mmap | bytearray | memoryview, storage: Storage, start: int) -> Numbers:
    """A storage as a flat tensor over ``data``, or as an array if it is not aligned there, which torch's need to be."""
    import torch

    dtype = getattr(torch, storage.dtype)
    if not storage.elements:
        return torch.empty(0, dtype=dtype)
    flat = np.frombuffer(data, np.uint8, count=storage.elements * storage.itemsize, offset=start)
    if flat.ctypes.data % storage.itemsize == 0:
        return torch.from_numpy(flat).view(dtype)
    if storage.dtype == "bfloat16":  # NumPy has no such type
        return torch.from_numpy(flat.copy()).view(dtype)
    return flat.view(storage.dtype)


def _laid(flat: Numbers, record: TensorRecord) -> Numbers:
    """The tensor of a record, whose claims were checked, over its storage."""
    if not isinstance(flat, np.ndarray):
        return flat.as_strided(record.shape, record.stride, record.offset)
    steps = [step * flat.itemsize for step in record.stride]
    return np.ndarray(record.shape, flat.dtype, flat, record.offset * flat.itemsize, steps)


def load_torch_legacy(path: Path, *, limits: Limits = LIMITS) -> Tree:
    """The content of a file older than torch 1.6.

    Raises:
        RefusedFileError: as :func:`load_torch_zip`.
    """
    size = path.stat().st_size
    storages: dict[str, Storage] = {}
    claimed = 0

    def stored(storage: Storage) -> int:
        # Storages follow the pickles one after the other, so all of them together cannot exceed the file.
        nonlocal claimed
        if storage.key not in storages:
            storages[storage.key] = storage
            claimed += storage.elements * storage.itemsize
        return size if claimed <= size and storages[storage.key] == storage else -1

    def read() -> Tree:
        with open_regular(path, what="weights", buffering=1 << 13) as file:
            machine = torch_machine(file, size, stored, limits)
            _magic, _protocol, system = machine.load(), machine.load(), machine.load()
            if isinstance(system, dict) and system.get("little_endian", True) is not True:
                raise RefusedFileError("damaged", "it was written by a machine of another byte order")
            content, keys = machine.load(), machine.load()
            keys = [as_text(key) for key in keys] if isinstance(keys, list) else None
            if keys is None or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(storages):
                raise RefusedFileError("damaged", "the list of its storages is not that of its tensors")
            flat = {}
            for key in keys:
                storage = storages[key]
                if int.from_bytes(machine.take(8), "little") != storage.elements:
                    raise RefusedFileError("damaged", f"storage {key[:40]} is not as long as its tensors say")
                held = machine.blob(storage.elements * storage.itemsize)
                if storage.dtype:
                    flat[storage] = _numbers(bytearray(held) if isinstance(held, bytes) else held, storage, 0)
        return plain(content, limits, size, lambda record: _laid(flat[record.storage], record))

    return guarded(str(path), read)
