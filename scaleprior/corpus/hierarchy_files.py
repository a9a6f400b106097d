"""Readers of hierarchy files: our JSON, Open Images' nested JSON, WordNet is-a lists.

All give the JSON form of a label space, ``{"nodes": {id: {"name", "parents": [...]}}}``, which ``LabelSpace.from_dict``
checks.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scaleprior.errors import UserError

__all__ = ["is_open_images", "load_hierarchy", "load_open_images", "load_wordnet_isa", "read_descriptions"]


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
    return {row[0]: row[1] for row in csv.reader(_text(Path(path), "names of labels").splitlines()) if len(row) >= 2}


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
            raise UserError(f"{path} line {number}: {line!r} is not PARENT CHILD", hint="two ids separated by a space")
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
    parents: dict[str, list[str]] = {}
    for node, parent in _open_images_edges(data, where):
        above = parents.setdefault(node, [])
        if parent is not None and parent not in above:
            above.append(parent)
    return _nodes(parents, names)


def _open_images_edges(data: Any, where: str) -> Iterator[tuple[str, str | None]]:
    stack: list[tuple[Any, str | None]] = [(data, None)]
    while stack:
        entry, parent = stack.pop()
        label = entry.get("LabelName") if isinstance(entry, dict) else None
        if not isinstance(label, str):
            raise UserError(f'{where}: an entry below {parent!r} has no "LabelName"', hint="use Open Images' own file")
        yield label, parent
        stack.extend((part, None) for part in reversed(entry.get("Part", [])))
        stack.extend((below, label) for below in reversed(entry.get("Subcategory", [])))


def _strict_json(path: Path) -> Any:
    """Parse JSON and refuse repeated keys: Python's parser would silently keep the last of two nodes with one id."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = sorted({key for key in found if keys.count(key) > 1})
            raise UserError(
                f"hierarchy {path}: duplicate id {', '.join(map(repr, twice[:5]))}", hint="keep one of them"
            )
        return found

    try:
        return json.loads(_text(path), object_pairs_hook=unique)
    except json.JSONDecodeError as e:
        raise UserError(f"hierarchy {path} is not JSON: line {e.lineno}: {e.msg}", hint="repair the file") from e


def _text(path: Path, what: str = "hierarchy file") -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as e:
        raise UserError(f"{what} not found: {path}", hint="check the path") from e
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{what} {path} cannot be read: {e}", hint="check the file") from e
