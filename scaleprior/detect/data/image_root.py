"""Where a detection set's images are: a folder, a tar, or several tars given by a glob."""

from __future__ import annotations

import glob
import logging
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from scaleprior.corpus.magic import refuse_compressed
from scaleprior.corpus.names import difference, plain, spellings
from scaleprior.corpus.shards import ByteReader
from scaleprior.corpus.tar_files import TarMember, tar_members
from scaleprior.errors import UserError
from scaleprior.parsing import is_regular, read_bytes
from scaleprior.places import is_inside
from scaleprior.wording import bytes_in_words, shown

__all__ = ["IMAGE_BYTES", "FolderRoot", "ImageRoot", "Place", "TarRoot", "open_root"]

logger = logging.getLogger(__name__)


_DEEPEST = 16  # folders of a name that its end is looked for without

IMAGE_BYTES = 1 << 30
"""Of an image's file: the 100 million pixels that are decoded take less, at 16 bits a channel and uncompressed."""


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
    """Images are regular files below ``folder``; all else is missing.

    A name with back-slashes or in another Unicode normalisation than the file's means that file, if it is the only one.
    One with ``..`` or from the top leads out, and is not looked up; Detectron2 would open it. Only a full name that
    begins with the folder's own is taken, and so every full name where the folder is ``/``.

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
            below = self._below(name)
            if below is None:
                absent.append(name)
                continue
            parent, base = os.path.split(below)
            if parent not in present:  # one listing per folder, not one look-up per image
                present[parent] = _regular_files(os.path.join(self.where, parent))
            if base not in present[parent]:
                path = self._path(name)
                if path is None or not is_regular(path):
                    absent.append(name)
                else:
                    matched[difference(name, os.path.relpath(path, self.where))] += 1
        _say_matched(self.where, matched)
        self.respelled = self.respelled or bool(matched)
        return absent

    def near(self, name: str) -> str:
        if "\0" in name or not _encodable(name):
            return ""
        below = self._below(name)
        if below is None:
            elsewhere = self._elsewhere(name)
            why = f"it does not lie below {self.where}"
            return f"{why}; {elsewhere}" if elsewhere else f"{why}, as images must: give a folder above all of them"
        path = os.path.join(self.where, below)
        if os.path.exists(path):
            return "it is no regular file"
        parent, base = os.path.split(name.replace("\\", "/"))
        folder = self.folder / parent
        if not os.path.isdir(folder):
            return self._elsewhere(name)
        other = next((other for other in sorted(os.listdir(folder)) if difference(base, other)), "")
        return f"there is {other!r} ({difference(base, other)})" if other else self._elsewhere(name)

    def _elsewhere(self, name: str) -> str:
        """The file that a part of ``name`` finds: its end, or all of it in a sub-folder."""
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        ends = ["/".join(parts[start:]) for start in range(max(1, len(parts) - _DEEPEST), len(parts))]
        with os.scandir(self.folder) as entries:
            below = sorted(entry.name for entry in entries if _is(entry, os.DirEntry.is_dir))
        inner = [f"{folder}/{name}" for folder in below] if is_inside(name) else []
        for other in (*ends, *inner):
            if os.path.isfile(self.folder / other):
                return f"there is {other!r} (names in other folders)"
        return ""

    def place(self, name: str) -> Place | None:
        path = self._path(name)
        return None if path is None else Place(path)

    def read(self, name: str) -> bytes:
        path = self._path(name)
        if path is None:
            raise UserError(f"image {shown(name)} is no file below {self.folder}", hint="check it")
        return read_bytes(path, what="image", limit=IMAGE_BYTES)

    def _path(self, name: str) -> str | None:
        """Where the file is or would be; only names that can be spelled in several ways are looked for."""
        below = self._below(name)
        if below is None:
            return None
        path = os.path.join(self.where, below)
        if (name.isascii() and "\\" not in name) or os.path.exists(path):
            return path
        found = [o for o in spellings(below) if is_inside(o) and os.path.exists(os.path.join(self.where, o))]
        return os.path.join(self.where, found[0]) if len(found) == 1 else path

    def _below(self, name: str) -> str | None:
        """``name`` from the folder, without ``.`` and doubled slashes; None where it leads out or no file can have it.

        Links are followed.
        """
        if "\0" in name or not _encodable(name):
            return None
        above, below = self.where.rstrip("/") + "/", name
        if name[:1] == "/":
            below = os.path.normpath(name)
            below = below[len(above) :] if below.startswith(above) else name
        return os.path.normpath(below) if is_inside(below) else None


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
        if place.size > IMAGE_BYTES:
            what = f"has {bytes_in_words(place.size)}, at most {bytes_in_words(IMAGE_BYTES)} are read"
            raise UserError(f"image {shown(name)} {what} ({place.path})", hint="check the tar")
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


def _regular_files(folder: str) -> set[str]:
    """Names of a folder's regular files, and of links to such; of none where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if _is(entry, os.DirEntry.is_file)}
    except (OSError, ValueError):
        return set()


def _is(entry: os.DirEntry[str], kind: Callable[[os.DirEntry[str]], bool]) -> bool:
    """Whether an entry is of a kind; the file system is asked again for links alone."""
    try:
        return kind(entry)
    except OSError:  # a loop of links
        return False


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
