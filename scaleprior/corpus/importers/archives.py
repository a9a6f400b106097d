"""Tars without a table of labels: what their first members say they are, and the importer for it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from scaleprior.corpus.importers.class_names import ClassNames
from scaleprior.corpus.importers.doubts import Doubt
from scaleprior.corpus.importers.nested import StructuredTars
from scaleprior.corpus.importers.source import Source
from scaleprior.corpus.importers.splits import files_of_split, is_split
from scaleprior.corpus.importers.spool import spooled_source
from scaleprior.corpus.importers.webdataset import WebDataset, looks_like_shard
from scaleprior.corpus.index import ImageRow
from scaleprior.corpus.label_space import LabelSpace
from scaleprior.corpus.magic import IMAGE_LIKE, head_of, refuse_compressed
from scaleprior.corpus.names import inside, refuse_undecodable
from scaleprior.corpus.notes import Notes
from scaleprior.corpus.tar_files import TarMember, tar_members
from scaleprior.errors import UserError
from scaleprior.progress import ProgressFn, watched
from scaleprior.wording import parameter

__all__ = ["archive_source", "is_tar"]

_PEEKED = 300  # members that tell what a tar is


def is_tar(path: Path) -> bool:
    """Whether a file is called, or begins, like a tar."""
    return path.suffix.lower() == ".tar" or head_of(path, 262)[257:] == b"ustar"


def archive_source(
    tars: Sequence[Path],
    *,
    label_space: LabelSpace | None = None,
    label_column: str | None = None,
    class_names: str | Path | None = None,
    split: str | None = None,
    readable: bool = False,
    progress: ProgressFn | bool | None = None,
) -> Source:
    """WebDataset shards, a tar for each class, tars of such tars, or tars of class folders.

    All headers are read here, so that the labels are known, and what is doubtful about them, before any image is.

    Args:
        label_space: what the labels mean; None makes a flat one.
        label_column: of WebDataset shards: a key of the JSON, or ``cls``, ``json`` or ``txt``.
        class_names: of labels that are numbers, see ``ClassNames.read``.
        split: only tars with this word in their name, or of class folders those below this one.
        readable: leave out images of formats that are not read.
        progress: True for a bar; or called with (tars listed, tars in all, {}).

    Raises:
        UserError: nothing of this kind, or as the importers.
    """
    for tar in tars:
        refuse_undecodable(tar)
        refuse_compressed(tar)
    root = Path(os.path.commonpath([tar.absolute().parent for tar in tars]))
    tars = [tar.absolute() for tar in tars]
    first = list(islice(tar_members(tars[0]), _PEEKED))
    facts = {"path": str(tars[0].parent if len(tars) > 1 else tars[0]), "tars": str(len(tars))}
    doubts: tuple[Doubt, ...] = ()
    below = ""
    if split is not None:
        facts["split"] = split
        below = next((prefix for m in first if (prefix := _below(inside(m.name) or "", split))), "")
    if not below:
        tars, doubts = files_of_split(tars, split, "tars")
    notes = Notes()
    with watched(progress, f"listing {facts['path']}", unit="tars") as report:
        listed = _reported(tars, report)
        if looks_like_shard(first) and not below:
            shards = WebDataset(root, notes, label=label_column, names=ClassNames.read(class_names, root))
            kind, rows = "webdataset", shards.rows(listed, prefixed=_numbered_alike(tars))
        else:
            _refuse_options(tars[0], label_column=label_column, class_names=class_names)
            structured = StructuredTars(root, notes, readable=readable)
            kind, rows, more = _by_structure(first, tars, listed, structured, below)
            doubts += more
        return spooled_source(kind, root, rows, label_space=label_space, notes=notes, facts=facts, doubts=doubts)


def _reported(tars: Sequence[Path], report: ProgressFn | None) -> Iterator[Path]:
    for number, tar in enumerate(tars):
        if report is not None:
            report(number, len(tars), {})
        yield tar


def _below(name: str, split: str) -> str:
    """The part of a member's name up to the folder of the split, which may lie in folders that wrap all."""
    before, found, _ = f"/{name}".partition(f"/{split}/")
    return f"{before}{found}"[1:] if found else ""


def _refuse_options(tar: Path, **options: object) -> None:
    for option, value in options.items():
        if value is not None:
            raise UserError(
                f"{parameter(option)} {str(value)!r} is for a table of labels or WebDataset shards, {tar} is neither",
                hint=f"pass {parameter('labels', words='TABLE')}, or leave it out",
            )


def _by_structure(
    first: Sequence[TarMember], tars: Sequence[Path], listed: Iterable[Path], structured: StructuredTars, below: str
) -> tuple[str, Iterator[ImageRow], tuple[Doubt, ...]]:
    """Kind, rows and doubts of what ``first``, the first members of the first tar, are."""
    if not first:
        raise UserError(f"{tars[0]} holds no files", hint="check the tar")
    if any(m.name.lower().endswith(".tar") for m in first):
        return "tar of tars", structured.of_tars(listed), ()
    images = [m for m in first if os.path.splitext(m.name)[1].lower() in IMAGE_LIKE]
    names = [inside(m.name) or "" for m in images or first]
    if all("/" in name for name in names):
        return "class folders in tars", structured.of_folders(listed, below), _split_above(names, below, tars[0])
    return "class tars", structured.of_classes(listed), _numbered(tars)


def _split_above(names: Sequence[str], below: str, tar: Path) -> tuple[Doubt, ...]:
    """The doubt that the first folders of the members' names are splits, or one that wraps all, and no labels."""
    tops = sorted({name.split("/", 1)[0] for name in names})
    if below or not (all(map(is_split, tops)) or (len(tops) == 1 and all(name.count("/") > 1 for name in names))):
        return ()
    what = f"the first folders in {tar}, {', '.join(map(repr, tops))}, are called or nested like parts of a data set"
    return (Doubt(what, f"take what lies in one of them with {parameter('split', tops[0])}"),)


def _numbered(tars: Sequence[Path]) -> tuple[Doubt, ...]:
    """Tars called images-000, images-001: shards whose table is missing, and no classes."""
    if len(tars) < 2:
        return ()
    parts = [re.fullmatch(r"(.*?)(\d+)", tar.stem) for tar in tars]
    numbers = sorted(int(part[2]) for part in parts if part is not None)
    prefixes = {part[1] for part in parts if part is not None}
    if None in parts or len(prefixes) != 1 or numbers != list(range(numbers[0], numbers[0] + len(tars))):
        return ()
    what = f"{len(tars):,} tars, from {tars[0].name}, are numbered like shards; each would be a class, of its name"
    return (Doubt(what, f"give their labels by {parameter('labels', words='TABLE')}"),)


def _numbered_alike(shards: Sequence[Path]) -> bool:
    """Whether the shards name their samples alike, so that keys need the shard's name."""
    if len(shards) < 2:
        return False
    one, other = (next(iter(tar_members(shard)), None) for shard in shards[:2])
    return one is not None and other is not None and one.name == other.name
