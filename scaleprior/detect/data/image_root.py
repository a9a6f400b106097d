"""Where a detection set's images are: a folder, a tar, or several tars given by a glob."""

from __future__ import annotations

import glob
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from scaleprior.corpus.shards import ByteReader
from scaleprior.corpus.tar_files import TarMember, tar_members
from scaleprior.errors import UserError

__all__ = ["FolderRoot", "ImageRoot", "Place", "TarRoot", "open_root"]


class Place(NamedTuple):
    """Where an image's bytes are: a file, the first of them in it, and how many; None is the whole file."""

    path: str
    offset: int = 0
    size: int | None = None


class ImageRoot(ABC):
    """Reads encoded images by the names that the annotations use.

    Attributes:
        where: the folder, or the tars, by their full paths; the same text is the same place.
    """

    where: str

    @abstractmethod
    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of ``names`` that are not there, in order."""

    @abstractmethod
    def place(self, name: str) -> Place | None:
        """Where ``name`` is, without looking whether a file is there; None where it is known not to be.

        Raises:
            UserError: the name means several images.
        """

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
        self.where = os.path.abspath(folder)

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

    def place(self, name: str) -> Place:
        return Place(os.path.join(self.where, name))

    def read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as e:
            raise UserError(f"image {self.folder / name} cannot be read: {e.strerror or e}", hint="check it") from e


class TarRoot(ImageRoot):
    """Images are members of uncompressed tars, named by their full member name or by its last part alone."""

    def __init__(self, tars: list[Path]) -> None:
        self.tars = tars
        self.where = "\n".join(str(tar.absolute()) for tar in tars)
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

    def place(self, name: str) -> Place | None:
        if name not in self._members:
            full = self._full_names.get(name, [])
            if len(full) > 1:
                raise self._unclear(name, f"is both {full[0]} and {full[1]}")
            if not full:
                return None
            name = full[0]
        tar, member = self._members[name]
        return Place(tar, member.offset, member.size)

    def read(self, name: str) -> bytes:
        place = self.place(name)
        if place is None:
            raise self._unclear(name, "is not there")
        assert place.size is not None
        return self._reader.read(place.path, place.offset, place.size)

    def _unclear(self, name: str, why: str) -> UserError:
        where = ", ".join(tar.name for tar in self.tars[:3])
        return UserError(f"image {name} {why} ({where})", hint="use full member names in the JSON")
