"""Tars whose structure says the labels: a tar for each class, a tar of such tars (ImageNet), or class folders in tars.

Images are read in place, by their offset in the outermost file. Keys are those of the class folders that unpacking
would make, so both give the same index.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from scaleprior.corpus.images import IMAGE_SUFFIXES
from scaleprior.corpus.importers.walk import hidden
from scaleprior.corpus.index import ImageRow
from scaleprior.corpus.magic import HEAD, IMAGE_LIKE, is_image
from scaleprior.corpus.names import inside
from scaleprior.corpus.notes import Notes
from scaleprior.corpus.shards import ByteReader
from scaleprior.corpus.tar_files import TarMember, tar_members
from scaleprior.errors import UserError

__all__ = ["StructuredTars"]

_DEEPEST = 8  # tars in tars; ImageNet has one
_PACKED = (".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tar.lz4")


class StructuredTars:
    """Rows of tars without a table.

    Args:
        root: folder that the rows' shards are relative to.
        notes: counts what is not taken.
        readable: leave out images of formats that are not read.
    """

    def __init__(self, root: Path, notes: Notes, *, readable: bool) -> None:
        self._root = root
        self._notes = notes
        self._reader = ByteReader(root)
        self._suffixes = IMAGE_SUFFIXES if readable else IMAGE_LIKE
        self._readable = readable

    def of_classes(self, tars: Iterable[Path]) -> Iterator[ImageRow]:
        """A tar is a class: the label is its name, and that of a tar inside it for what lies in there."""
        for tar in tars:
            yield from self._labelled(tar, tar.stem, seen=set())

    def of_tars(self, tars: Iterable[Path]) -> Iterator[ImageRow]:
        """The tars inside the ``tars`` are classes; images beside them have no label and are left out."""
        for tar in tars:
            yield from self._labelled(tar, None, seen=set())

    def of_folders(self, tars: Iterable[Path], below: str = "") -> Iterator[ImageRow]:
        """The label is the first folder of a member's name, behind the prefix ``below``, such as ``train/``."""
        for tar in tars:
            for member in self._images(tar, 0, None):
                name = inside(member.name)
                if name is None:
                    self._notes.warn("names in tars that lead out of their folder (left out)", member.name)
                elif name.startswith(below) and "/" in name[len(below) :]:
                    name = name[len(below) :]
                    yield self._row(tar, member, name, name.split("/", 1)[0])
                elif not below:
                    self._notes.warn("images beside the class folders (they have no label)", member.name)

    def _labelled(
        self,
        tar: Path,
        label: str | None,
        start: int = 0,
        size: int | None = None,
        *,
        depth: int = 0,
        seen: set[int],
    ) -> Iterator[ImageRow]:
        """Rows of the tar at ``start``; ``seen`` are the places of the tars inside ``tar`` that have been listed."""
        if depth > _DEEPEST:
            raise UserError(f"{tar} holds tars in tars, more than {_DEEPEST} deep", hint="unpack what it holds")
        for member in self._images(tar, start, size):
            name = inside(member.name)
            if name is None:
                self._notes.warn("names in tars that lead out of their folder (left out)", member.name)
            elif name.lower().endswith(".tar"):
                if member.offset in seen:  # with links eight tars of ten links each would be a hundred million
                    self._notes.warn("links to a tar in a tar that is read already (left out)", name)
                    continue
                seen.add(member.offset)
                place = (member.offset, member.size)
                yield from self._labelled(tar, PurePosixPath(name).stem, *place, depth=depth + 1, seen=seen)
            elif label is None:
                self._notes.warn("images beside the class tars (they have no label)", name)
            else:
                yield self._row(tar, member, f"{label}/{name}", label)

    def _row(self, tar: Path, member: TarMember, key: str, label: str) -> ImageRow:
        return ImageRow(key, (label,), self._shard(tar), member.name, member.offset, member.size)

    def _shard(self, tar: Path) -> str:
        return tar.relative_to(self._root).as_posix()

    def _images(self, tar: Path, start: int, size: int | None) -> Iterator[TarMember]:
        """The members that are to be images, and tars."""
        for member in tar_members(tar, start=start, size=size, left_out=self._notes.warn):
            base = os.path.basename(member.name)
            suffix = os.path.splitext(base)[1].lower()
            if hidden(base) or any(hidden(part) for part in member.name.split("/")[:-1] if part not in (".", "..")):
                self._notes.other(base)
            elif suffix == ".tar" or suffix in self._suffixes or is_image(self._head(tar, member)):
                yield member
            elif suffix in IMAGE_LIKE:
                self._notes.warn("images of a format that is not read", member.name)
            elif base.lower().endswith(_PACKED):
                raise UserError(
                    f"{tar} holds {member.name!r}, which is compressed, and images are read from their place in a file",
                    hint=f"unpack what it holds: tar xf {shlex.quote(str(tar))}",
                )
            else:
                self._notes.other(base)

    def _head(self, tar: Path, member: TarMember) -> bytes:
        return self._reader.read(self._shard(tar), member.offset, min(HEAD, member.size))
