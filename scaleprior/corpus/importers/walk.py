"""Walking folders as images lie in them: links are followed, and what is not taken is counted and named."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from scaleprior.corpus.images import IMAGE_SUFFIXES
from scaleprior.corpus.magic import IMAGE_LIKE, head_of, is_image
from scaleprior.corpus.notes import Notes
from scaleprior.errors import UserError

__all__ = ["ImageFile", "hidden", "is_folder", "walk_images"]

_SYSTEM = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "Thumbs.db"})

_Place = tuple[int, int]  # device and inode: what a folder is, by whatever way one came to it


class ImageFile(NamedTuple):
    """A file that is to be an image: its POSIX path below the root, and its bytes."""

    path: str
    size: int


def hidden(name: str) -> bool:
    """Whether a file or folder is the system's and not the user's: ``.name``, or what archives and servers leave."""
    return name.startswith(".") or name in _SYSTEM


def walk_images(
    root: Path, below: str, notes: Notes, *, places: dict[_Place, str], readable: bool
) -> Iterator[ImageFile]:
    """The images at any depth below ``root/below``, each folder's in the order of their names.

    Links to files and folders are followed, those that lead back to a folder above are not. A file is an image if its
    suffix or its content is an image's. Memory is that of one folder's listing and of the folders' names.

    Args:
        notes: counts the rest.
        places: the folders seen so far by this and other walks of the source; for folders that are reached twice.
        readable: leave out files of formats that are not read (for builds that do not decode).

    Raises:
        UserError: a folder that cannot be listed.
    """
    waiting: list[tuple[str, tuple[_Place, ...]]] = [(below, (_listed(root)[0],))]
    while waiting:
        folder, above = waiting.pop()
        place, entries = _listed(root / folder)
        if place in above:
            notes.warn("links back to a folder above (not followed)", folder)
            continue
        if place in places:
            notes.warn("folders reached by two ways (their images are taken twice)", f"{folder} is {places[place]}")
        places.setdefault(place, folder)
        folders = []
        for entry in entries:
            path = f"{folder}/{entry.name}"
            if is_folder(entry):
                folders.append(path) if not hidden(entry.name) else notes.warn("hidden folders", path)
            elif hidden(entry.name):
                notes.other(entry.name)
            else:
                yield from _image(entry, path, notes, readable)
        waiting.extend((path, (*above, place)) for path in reversed(folders))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or leads to one; a link to itself does not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _listed(folder: Path) -> tuple[_Place, list[os.DirEntry[str]]]:
    try:
        status = os.stat(folder)
        return (status.st_dev, status.st_ino), sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as e:
        raise UserError(f"folder {str(folder)!r} cannot be read: {e.strerror}", hint="check its permissions") from e


def _image(entry: os.DirEntry[str], path: str, notes: Notes, readable: bool) -> Iterator[ImageFile]:
    """The file if it is to be an image, else nothing and a note."""
    suffix = os.path.splitext(entry.name)[1].lower()
    try:
        status = entry.stat()
    except OSError:
        notes.warn("links that lead nowhere", path)
        if suffix in IMAGE_LIKE and not readable:
            yield ImageFile(path, 0)  # counted among the unusable images, too: one was to be here
        return
    if not stat.S_ISREG(status.st_mode):
        notes.warn("entries that are neither files nor folders", path)
    elif suffix in (IMAGE_SUFFIXES if readable else IMAGE_LIKE) or is_image(head_of(entry.path)):
        yield ImageFile(path, status.st_size)
    elif suffix in IMAGE_LIKE:
        notes.warn("images of a format that is not read", path)
    else:
        notes.other(entry.name)
