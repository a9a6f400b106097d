"""Where a detection set's images are: a folder, a tar, or several tars given by a glob."""

from __future__ import annotations

import glob
import logging
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from scaleprior.corpus.magic import refuse_compressed
from scaleprior.corpus.names import difference, plain, spellings
from scaleprior.corpus.shards import ByteReader
from scaleprior.corpus.tar_files import TarMember, tar_members
from scaleprior.errors import UserError
from scaleprior.wording import shown

__all__ = ["FolderRoot", "ImageRoot", "Place", "TarRoot", "open_root"]

logger = logging.getLogger(__name__)


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
    def near(self, name: str) -> str:
        """Why ``name`` is missing though something like it is there, in words; "" if nothing is."""

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
    for file in files:
        refuse_compressed(file)  # before the first of many tars is read
    return TarRoot([Path(f) for f in files])


class FolderRoot(ImageRoot):
    """Images are files below ``folder``.

    A name with back-slashes or in another Unicode normalisation than the file's means that file, if it is the only one.

    Attributes:
        respelled: some name that was asked for by ``missing`` is such a name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.where = os.path.abspath(folder)
        self.respelled = False

    def missing(self, names: Iterable[str]) -> list[str]:
        present: dict[str, set[str]] = {}
        absent, matched = [], Counter[str]()
        for name in names:
            parent, base = os.path.split(name)
            if parent not in present:  # one listing per folder, not one look-up per image
                folder = self.folder / parent
                present[parent] = set(os.listdir(folder)) if folder.is_dir() else set()
            if base not in present[parent]:
                path = self._path(name)
                if path is None or not os.path.exists(path):
                    absent.append(name)
                else:
                    matched[difference(name, os.path.relpath(path, self.where))] += 1
        _say_matched(self.where, matched)
        self.respelled = self.respelled or bool(matched)
        return absent

    def near(self, name: str) -> str:
        parent, base = os.path.split(name.replace("\\", "/"))
        folder = self.folder / parent
        if "\0" in name or not _encodable(name):
            return ""
        if not folder.is_dir():
            return self._elsewhere(name)
        other = next((other for other in sorted(os.listdir(folder)) if difference(base, other)), "")
        return f"there is {other!r} ({difference(base, other)})" if other else self._elsewhere(name)

    def _elsewhere(self, name: str) -> str:
        """The file that a part of ``name`` finds: its end, or all of it in a sub-folder."""
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        ends = ["/".join(parts[start:]) for start in range(1, len(parts))]
        with os.scandir(self.folder) as entries:
            below = sorted(entry.name for entry in entries if entry.is_dir())
        for other in (*ends, *(f"{folder}/{name}" for folder in below)):
            if os.path.isfile(self.folder / other):
                return f"there is {other!r} (names in other folders)"
        return ""

    def place(self, name: str) -> Place | None:
        path = self._path(name)
        return None if path is None else Place(path)

    def read(self, name: str) -> bytes:
        path = self._path(name)
        try:
            if path is None:
                raise OSError("no file can be called so")
            return Path(path).read_bytes()
        except OSError as e:
            raise UserError(f"image {self.folder / name} cannot be read: {e.strerror or e}", hint="check it") from e

    def _path(self, name: str) -> str | None:
        """Where the file is or would be; only names that can be spelled in several ways are looked for."""
        path = os.path.join(self.where, name)
        if "\0" in name or not _encodable(name):
            return None
        if (name.isascii() and "\\" not in name) or os.path.exists(path):
            return path
        found = [other for other in spellings(name) if os.path.exists(os.path.join(self.where, other))]
        return os.path.join(self.where, found[0]) if len(found) == 1 else path


class TarRoot(ImageRoot):
    """Images are members of uncompressed tars, named by their full member name or by its last part alone.

    Spellings are as in ``FolderRoot``.
    """

    def __init__(self, tars: list[Path]) -> None:
        self.tars = tars
        self.where = "\n".join(str(tar.absolute()) for tar in tars)
        self._reader = ByteReader("")
        self._members: dict[str, tuple[str, TarMember]] = {}
        self._full_names: dict[str, list[str]] = {}
        self._plain: dict[str, list[str]] = {}
        self._twice: set[str] = set()
        self._left_out: dict[str, str] = {}
        for tar in tars:
            for member in tar_members(tar, left_out=lambda kind, name: self._left_out.setdefault(name, kind)):
                if member.name in self._members:
                    self._twice.add(member.name)
                    continue
                self._members[member.name] = (str(tar.absolute()), member)
                self._full_names.setdefault(os.path.basename(member.name), []).append(member.name)
                if not member.name.isascii():
                    self._plain.setdefault(plain(member.name), []).append(member.name)

    def missing(self, names: Iterable[str]) -> list[str]:
        absent, matched = [], Counter[str]()
        for name in names:
            found = self._found(name)
            if not found:
                absent.append(name)
            elif name not in self._members and name not in self._full_names:
                matched[difference(name, found[0])] += 1
        _say_matched(", ".join(tar.name for tar in self.tars[:3]), matched)
        return absent

    def near(self, name: str) -> str:
        if name in self._left_out:
            return self._left_out[name]
        other = next((other for other in self._members if difference(name, other)), "")
        return f"there is {other!r} ({difference(name, other)})" if other else ""

    def place(self, name: str) -> Place | None:
        found = self._found(name)
        if not found:
            return None
        if len(found) > 1:
            raise self._unclear(name, f"is both {found[0]} and {found[1]}")
        if found[0] in self._twice:
            raise self._unclear(name, "occurs twice in the tars")
        tar, member = self._members[found[0]]
        return Place(tar, member.offset, member.size)

    def read(self, name: str) -> bytes:
        place = self.place(name)
        if place is None:
            raise self._unclear(name, "is not there")
        assert place.size is not None
        return self._reader.read(place.path, place.offset, place.size)

    def _found(self, name: str) -> list[str]:
        """The members that ``name`` may mean."""
        if name in self._members:
            return [name]
        if name in self._full_names or (name.isascii() and "\\" not in name):
            return self._full_names.get(name, [])
        slashed = plain(name)
        return [slashed] if slashed in self._members else self._plain.get(slashed, [])

    def _unclear(self, name: str, why: str) -> UserError:
        where = ", ".join(tar.name for tar in self.tars[:3])
        return UserError(f"image {shown(name)} {why} ({where})", hint="use full member names in the JSON")


def _encodable(name: str) -> bool:
    """Whether a file can be called so; JSON can hold halves of surrogate pairs, which are no characters."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def _say_matched(where: str, matched: Counter[str]) -> None:
    for kind, count in matched.items():
        logger.warning("%s: %d %s were matched with the only file each can mean", where, count, kind)
