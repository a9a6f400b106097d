"""Doubts about a source: what it can be read as and may not be meant as, asked about before anything is spent.

An importer puts a :class:`Doubt` into its ``Source``. ``Corpus.build`` refuses to go on unless every doubt is answered:
on a terminal by the person, else by the parameter that says what is meant. The sentences stand here, so that they are
worded alike.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scaleprior.corpus.magic import unpacking
from scaleprior.errors import UserError
from scaleprior.wording import parameter, shown

__all__ = [
    "NO_CLASSES",
    "NO_LABELS",
    "Answer",
    "Doubt",
    "alike",
    "left_packed",
    "left_tars",
    "mostly_unlabelled",
    "nearly_one_each",
    "one_label",
    "settle",
    "unread_tables",
]


@dataclass(frozen=True)
class Doubt:
    """Something about a source that its reader cannot decide.

    Attributes:
        what: what was found and how it would be read, with counts and examples.
        options: what to pass to have it read otherwise.
    """

    what: str
    options: str


Answer = Callable[[Doubt], bool]
"""Whether a doubt is to be read as it stands; what a terminal asks a person."""


def settle(doubts: Sequence[Doubt], yes: bool | Answer) -> None:
    """Return if all that is doubtful is meant.

    Args:
        doubts: in the order to ask about them.
        yes: True: all is meant; a function is asked about one after the other.

    Raises:
        UserError: some are not; names them all and what to do about each.
    """
    open_doubts = [doubt for doubt in doubts if not (yes(doubt) if callable(yes) else yes)]
    if open_doubts:
        what = "; ".join(doubt.what for doubt in open_doubts)
        options = "; ".join(doubt.options for doubt in open_doubts)
        raise UserError(what, hint=f"{options}; or pass {parameter('yes', True)} if it is meant so")


NO_CLASSES = f"give the folder above the classes, or a table by {parameter('labels', words='TABLE')}"
"""What to do about folders or tars that are no classes."""

NO_LABELS = f"choose where the labels are with {parameter('label_column')}"
"""What to do about a column that holds no labels."""


def one_label(labels: Sequence[str], where: str, options: str) -> tuple[Doubt, ...]:
    """A source whose images all have the same label: mostly a folder of everything, or the wrong column."""
    if len(labels) != 1:
        return ()
    return (Doubt(f"all images of {where} would have the one label {labels[0]!r}", options),)


def alike(names: Sequence[str], what: str) -> tuple[Doubt, ...]:
    """Labels that differ only in case, in blanks around them or in Unicode normalisation: mostly one label twice."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(unicodedata.normalize("NFC", name).casefold().strip(), []).append(name)
    pairs = [group for group in groups.values() if len(group) > 1]
    if not pairs:
        return ()
    first = " and ".join(ascii(name) if not name.isascii() else repr(name) for name in pairs[0][:2])
    more = f" ({len(pairs):,} such pairs)" if len(pairs) > 1 else ""
    return (Doubt(f"{what} {first}{more} differ only in case, blanks or Unicode normalisation", "give them one name"),)


def left_packed(path: Path, archives: Sequence[Path]) -> tuple[Doubt, ...]:
    """Compressed files beside tars that are read: their images would be left out."""
    if not archives:
        return ()
    what = f"{len(archives):,} compressed files in {path} would not be read, first: {archives[0].name!r}"
    return (Doubt(what, f"unpack it: {unpacking(archives[0])}"),)


def mostly_unlabelled(unlabelled: int, images: int) -> tuple[Doubt, ...]:
    """More than half of the images have no label: mostly the wrong column, or names that do not match."""
    if unlabelled <= images / 2:
        return ()
    return (Doubt(f"{unlabelled:,} of {images:,} images have no label", NO_LABELS),)


def nearly_one_each(labels: Mapping[str, int], images: int) -> tuple[Doubt, ...]:
    """Nearly as many labels as images: mostly captions or names of files."""
    if len(labels) <= images / 2 or images <= 20:
        return ()
    what = f"{images:,} images have {len(labels):,} different labels, such as {shown(next(iter(labels)))}"
    return (Doubt(what, NO_LABELS),)


def left_tars(path: Path, tars: Sequence[Path]) -> tuple[Doubt, ...]:
    """Tars beside class folders: their images would be left out."""
    if not tars:
        return ()
    what = f"{len(tars):,} tars beside the class folders of {path} would not be read, first: {tars[0].name!r}"
    return (Doubt(what, f"give {str(path / '*.tar')!r} to read the tars"),)


def unread_tables(path: Path, tables: Sequence[Path]) -> tuple[Doubt, ...]:
    """Tables beside class folders: the folders may be no classes (``images_001``), and the labels in the table."""
    if not tables:
        return ()
    what = f"{path} holds the table {tables[0].name!r}, which is not read: its folders would be the labels"
    return (Doubt(what, f"if it holds the labels, give {parameter('labels', str(tables[0]))}"),)
