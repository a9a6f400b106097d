"""Readers of hierarchy files: our JSON, Open Images' nested JSON, WordNet is-a lists.

All give the JSON form of a label space, ``{"nodes": {id: {"name", "parents": [...]}}}``, which ``LabelSpace.from_dict``
checks.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scaleprior.corpus.names import is_text
from scaleprior.errors import UserError
from scaleprior.parsing import parse_json, read_text
from scaleprior.wording import shown

__all__ = ["is_open_images", "load_hierarchy", "load_open_images", "load_wordnet_isa", "read_descriptions"]


_LARGEST = 512 << 20
"""Bytes of a hierarchy, or of a label space as an index has it: the 1,000,000 labels that an importer takes at most,
with ids of 20 letters, have 117 MiB (measured)."""
_OPEN_IMAGES = "use Open Images' own file"


def load_hierarchy(path: str | Path) -> Any:
    """Read any hierarchy file; the form is told by its suffix and content.

    Raises:
        UserError: missing or malformed; names the path.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        return load_wordnet_isa(path)
    data = _strict_json(path)
    if isinstance(data, dict) and "LabelName" in data:
        return _from_open_images(data, {}, str(path))
    return data


def is_open_images(path: str | Path) -> bool:
    """Whether a hierarchy file is in Open Images' form."""
    data = _strict_json(Path(path)) if Path(path).suffix.lower() == ".json" else None
    return isinstance(data, dict) and "LabelName" in data


def read_descriptions(path: str | Path) -> dict[str, str]:
    """Names by label, of Open Images' ``class-descriptions*.csv`` or another CSV that begins with label and name.

    Raises:
        UserError: missing, or not UTF-8; names the path.
    """
    rows = csv.reader(_text(Path(path), "names of labels").splitlines())
    try:
        return {row[0]: row[1] for row in rows if len(row) >= 2}
    except csv.Error as e:  # a cell of more than 131,072 characters
        raise UserError(f"names of labels {path} line {rows.line_num}: {e}", hint="give CSV of label and name") from e


def load_open_images(path: str | Path, descriptions: str | Path | None = None) -> dict[str, Any]:
    """Open Images' ``bbox_labels_600_hierarchy.json``: nested ``{"LabelName", "Subcategory": [...]}``.

    A label that occurs under several categories gets all of them as parents. ``Part`` edges are not is-a edges and
    are ignored as edges; their labels become nodes.

    Args:
        path: the hierarchy.
        descriptions: ``class-descriptions*.csv`` without header (label, name); without it names are the labels.
    """
    names = {} if descriptions is None else read_descriptions(descriptions)
    return _from_open_images(_strict_json(Path(path)), names, str(path))


def load_wordnet_isa(path: str | Path, words: str | Path | None = None) -> dict[str, Any]:
    """A WordNet is-a list: one ``PARENT CHILD`` a line, as in ImageNet's ``wordnet.is_a.txt``.

    Args:
        path: the list.
        words: ``words.txt`` with ``ID<tab>NAME`` lines; without it names are the ids.
    """
    parents: dict[str, list[str]] = {}
    for number, line in enumerate(_text(Path(path)).splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2:
            hint = "two ids separated by a space"
            raise UserError(f"{path} line {number}: {shown(line)} is not PARENT CHILD", hint=hint)
        parents.setdefault(fields[0], [])
        parents.setdefault(fields[1], []).append(fields[0])
    names: dict[str, str] = {}
    if words is not None:
        split = (line.split("\t", 1) for line in _text(Path(words)).splitlines())
        names = {fields[0]: fields[1].strip() for fields in split if len(fields) == 2}
    return _nodes(parents, names)


def _nodes(parents: dict[str, list[str]], names: dict[str, str]) -> dict[str, Any]:
    return {"nodes": {node: {"name": names.get(node, node), "parents": above} for node, above in parents.items()}}


def _from_open_images(data: Any, names: dict[str, str], where: str) -> dict[str, Any]:
    parents: dict[str, dict[str, None]] = {}
    for node, parent in _open_images_edges(data, where):
        above = parents.setdefault(node, {})
        if parent is not None:
            above[parent] = None
    return _nodes({node: list(above) for node, above in parents.items()}, names)


def _open_images_edges(data: Any, where: str) -> Iterator[tuple[str, str | None]]:
    stack: list[tuple[Any, str | None]] = [(data, None)]
    while stack:
        entry, parent = stack.pop()
        label = entry.get("LabelName") if isinstance(entry, dict) else None
        if not is_text(label):
            raise UserError(f'{where}: an entry below {shown(parent)} has no "LabelName"', hint=_OPEN_IMAGES)
        yield label, parent
        for kind, above in (("Part", None), ("Subcategory", label)):
            below = entry.get(kind, [])
            if not isinstance(below, list):
                raise UserError(f"{where}: {kind} of {shown(label)} is {shown(below)}", hint=_OPEN_IMAGES)
            stack.extend((each, above) for each in reversed(below))


def _strict_json(path: Path) -> Any:
    """Parse JSON and refuse repeated keys: Python's parser would silently keep the last of two nodes with one id."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            twice = sorted(key for key, count in counts.items() if count > 1)
            raise UserError(
                f"hierarchy {path}: duplicate id {', '.join(map(shown, twice[:5]))}", hint="keep one of them"
            )
        return found

    return parse_json(_text(path), where=f"hierarchy {path}", pairs=unique)


def _text(path: Path, what: str = "hierarchy file") -> str:
    return read_text(path, what=what, limit=_LARGEST)
