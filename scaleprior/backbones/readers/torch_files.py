"""``.pth``, ``.pt``, ``.bin``: torch's zip format (1.6 and later) and the older one of consecutive pickles.

The claims of the file are checked first without allocating anything (``pickles.load_torch_pickles``); then
``torch.load(weights_only=True)`` reads it, mapped into memory where the format allows.
"""

from __future__ import annotations

import io
import mmap
import pickle
import zipfile
from pathlib import Path
from typing import Any

from scaleprior.backbones.readers.limits import LIMITS, Limits, RefusedFileError, check_name
from scaleprior.backbones.readers.pickles import load_torch_pickles

__all__ = ["LEGACY_MAGIC", "load_torch_legacy", "load_torch_zip", "open_archive"]

LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The pickled magic number that files older than torch 1.6 begin with, after the protocol's two bytes."""


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
        raise RefusedFileError("damaged", f"{path} is not a whole zip archive: {e}") from e
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


def load_torch_zip(path: Path, *, limits: Limits = LIMITS) -> Any:
    """What ``torch.load`` gives for a zip file, with tensors mapped, not copied.

    Raises:
        RefusedFileError: TorchScript, claims beyond the limits or the file, or anything but tensors and containers.
    """
    members = {m.filename: m for m in open_archive(path, limits=limits)}
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in members):
        raise RefusedFileError(
            "code", f"{path} is a TorchScript archive, which holds programs", hint="save its state_dict() instead"
        )
    packed = [name for name, m in members.items() if m.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise RefusedFileError("damaged", f"{path}: {packed[0]} is compressed, which torch never does")
    pickles = [name for name in members if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise RefusedFileError("damaged", f"{path} is not a torch file: it has {len(pickles)} data.pkl")
    folder = pickles[0].removesuffix("data.pkl")

    def stored(key: Any, *_: int) -> int:
        member = members.get(f"{folder}data/{key}")
        return member.file_size if member else 0

    if members[pickles[0]].file_size > limits.header_bytes:
        raise RefusedFileError("size", f"{path}: its data.pkl has {members[pickles[0]].file_size:,} bytes")
    with zipfile.ZipFile(path) as archive:
        try:
            structure = io.BytesIO(archive.read(pickles[0]))
        except (zipfile.BadZipFile, EOFError, OSError) as e:
            raise RefusedFileError("damaged", f"{path} is damaged: {e}") from e
    load_torch_pickles(structure, stored, str(path), preamble=0, limits=limits)
    return _torch_load(path, mapped=True)


def load_torch_legacy(path: Path, *, limits: Limits = LIMITS) -> Any:
    """What ``torch.load`` gives for a file older than torch 1.6.

    Raises:
        RefusedFileError: as :func:`load_torch_zip`.
    """
    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        sizes: dict[Any, int] = {}

        def stored(key: Any, itemsize: int, elements: int) -> int:
            # Storages follow the pickles one after the other, so all of them together cannot exceed the file.
            sizes[key] = elements * itemsize
            return size if sum(sizes.values()) <= size else 0

        # magic number, protocol version and system facts come first
        load_torch_pickles(data, stored, str(path), preamble=3, limits=limits)
    return _torch_load(path, mapped=False)


def _torch_load(path: Path, *, mapped: bool) -> Any:
    import torch

    try:
        return torch.load(str(path) if mapped else path, map_location="cpu", weights_only=True, mmap=mapped or None)
    except pickle.UnpicklingError as e:
        first = next((line for line in str(e).splitlines() if "Unsupported" in line or "GLOBAL" in line), str(e))
        raise RefusedFileError("code", f"{path}: torch's weights_only reader refuses it: {first[:200]}") from e
    except (RuntimeError, EOFError, ValueError, TypeError, KeyError, AttributeError, OSError, AssertionError) as e:
        raise RefusedFileError("damaged", f"{path} cannot be read: {str(e).splitlines()[0][:200]}") from e
