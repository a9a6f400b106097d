"""Where a detection set's images are: a folder, a tar, or several tars given by a glob."""

from __future__ import annotations

import glob
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

from scaleprior.corpus.shards import ByteReader, TarMember, tar_members
from scaleprior.errors import UserError

__all__ = ["FolderRoot", "ImageRoot", "TarRoot", "open_root"]


class ImageRoot(ABC):
    """Reads encoded images by the names that the annotations use."""

    @abstractmethod
    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of ``names`` that are not there, in order."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The file's bytes; may be called from several threads."""


def open_root(root: str | Path) -> ImageRoot:
    """The root for a folder, a ``.tar`` file, or a glob such as ``data/train-*.tar``; ``~`` and ``$VAR`` are expanded.

    Raises:
        UserError: nothing is there.
    """
    text = os.path.expanduser(os.path.expandvars(str(root)))
    if os.path.isdir(text):
        return FolderRoot(Path(text))
    files = [text] if os.path.isfile(text) else sorted(f for f in glob.glob(text) if os.path.isfile(f))
    if not files:
        raise UserError(f"no images at {root}", hint="give a folder, a tar file, or a glob that matches tar files")
    return TarRoot([Path(f) for f in files])


class FolderRoot(ImageRoot):
    """Images are files below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def missing(self, names: Iterable[str]) -> list[str]:
        present: dict[str, set[str]] = {}
        absent = []
        for name in names:
            parent, base = os.path.split(name)
            if parent not in present:  # one listing per folder, not one look-up per image
                folder = self.folder / parent
                present[parent] = set(os.listdir(folder)) if folder.is_dir() else set()
            if base not in present[parent]:
                absent.append(name)
        return absent

    def read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as e:
            raise UserError(f"image {self.folder / name} cannot be read: {e.strerror or e}", hint="check it") from e


class TarRoot(ImageRoot):
    """Images are members of uncompressed tars, named by their full member name or by its last part alone."""

    def __init__(self, tars: list[Path]) -> None:
        self.tars = tars
        self._reader = ByteReader("")
        self._members: dict[str, tuple[str, TarMember]] = {}
        self._full_names: dict[str, list[str]] = {}
        for tar in tars:
            for member in tar_members(tar):
                if member.name in self._members:
                    raise UserError(f"{tar}: {member.name} occurs twice in the tars", hint="keep one of them")
                self._members[member.name] = (str(tar.absolute()), member)
                self._full_names.setdefault(os.path.basename(member.name), []).append(member.name)

    def missing(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name not in self._members and name not in self._full_names]

    def read(self, name: str) -> bytes:
        if name not in self._members:
            full = self._full_names.get(name, [])
            if len(full) != 1:
                found = f"is both {full[0]} and {full[1]}" if full else "is not there"
                where = ", ".join(tar.name for tar in self.tars[:3])
                raise UserError(f"image {name} {found} ({where})", hint="use full member names in the JSON")
            name = full[0]
        tar, member = self._members[name]
        return self._reader.read(tar, member.offset, member.size)
