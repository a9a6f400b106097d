"""The catalogue: ScalePrior's ``model_zoo/zoo.yaml`` and the user's own ``zoo.yaml``, checked against the schema.

The user's file is ``$SCALEPRIOR_HOME/zoo.yaml``; it has the sections ``own`` (written by ``scaleprior zoo add``) and
``public`` (addresses that a group shares), and never lies in the package.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaleprior.backbones.trunks.resnet.spec import BLOCKS_PER_STAGE
from scaleprior.backbones.zoo.cache import ZooHome
from scaleprior.backbones.zoo.entry import Entry, own_entry, public_entry
from scaleprior.backbones.zoo.rung import fill
from scaleprior.backbones.zoo.schema import (
    COUNT,
    SECTION,
    TEXT,
    TRIPLE,
    check_entry,
    list_of,
    one_of,
    optional,
    read_yaml,
)
from scaleprior.errors import UserError

__all__ = ["SCHEMA", "Catalogue", "load_catalogue"]

SCHEMA = 1
_GRID_KEYS = {
    "source": TEXT,
    "depths": list_of(one_of(*sorted(BLOCKS_PER_STAGE))),
    "config": TEXT,
    "pixel_mean": TRIPLE,
    "pixel_std": TRIPLE,
    "corpora": SECTION,
}
_CORPUS_KEYS = {
    "corpus": TEXT,
    "images": COUNT,
    "labels": COUNT,
    "supervision": TEXT,
    "comparable": TEXT,
    "parent": optional(TEXT),
    "config": optional(TEXT),
    "options": SECTION,
}


@dataclass(frozen=True)
class Catalogue:
    """All entries by name: the paper's grid, the public ladder, the user's own."""

    entries: Mapping[str, Entry]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())

    def ordered(self) -> list[Entry]:
        """Public ones, the paper's, the user's, those of these that stand for the paper's; by images, then by depth."""
        kinds = ("public", "paper", "own")
        return sorted(self, key=lambda e: (kinds.index(e.kind), bool(e.fills), e.images or 0, e.depth))

    def find(self, name: str) -> Entry:
        """The entry called ``name``.

        Raises:
            UserError: there is none; lists names like it.
        """
        if name in self.entries:
            return self.entries[name]
        lowered = {known.lower(): known for known in self.entries}
        near = [lowered[n] for n in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)]
        hint = f"did you mean {', '.join(near)}?" if near else "`scaleprior zoo list` shows all names"
        raise UserError(f"the zoo has no backbone {name!r}", hint=hint)


def load_catalogue(*, user: bool = True) -> Catalogue:
    """ScalePrior's catalogue and, unless ``user`` is False, the user's.

    An own backbone may have a name of ours whose weights are not public, and then stands for it (:mod:`.rung`).

    Raises:
        UserError: a file that is not a catalogue, or an entry that is not one; names file, entry and key.
    """
    entries = dict(_ours())
    own = ZooHome.current().catalogue
    if user and own.is_file():
        for name, entry in read_catalogue(own, sections=("public", "own")).items():
            taken = entries.get(name)
            if taken is None:
                entries[name] = entry
            elif taken.kind == "paper" and entry.kind == "own":
                entries[name] = fill(taken, entry, where=f"{own}: entry {name}")
            else:
                raise UserError(f"{own}: entry {name}: ScalePrior's own catalogue has that name", hint="rename it")
    return Catalogue(entries)


@functools.cache
def _ours() -> Mapping[str, Entry]:
    """ScalePrior's catalogue, which does not change while a process runs."""
    from scaleprior.config import data_file

    return read_catalogue(data_file("model_zoo", "zoo.yaml"), sections=("paper_grid", "public"))


def read_catalogue(path: Path, *, sections: tuple[str, ...]) -> dict[str, Entry]:
    """Entries of one file, which may have only ``sections``, and ``shared``, pieces for YAML's <<."""
    raw = read_yaml(path)
    for key in raw:
        if key not in ("schema", "shared", *sections):
            raise UserError(f"{path}: unknown section {key!r}", hint=f"known: schema, shared, {', '.join(sections)}")
    if raw.get("schema") != SCHEMA:
        raise UserError(
            f"{path}: schema is {raw.get('schema')!r}, this version of scaleprior reads {SCHEMA}",
            hint="update scaleprior" if type(raw.get("schema")) is int else f"begin with schema: {SCHEMA}",
        )
    found: dict[str, Entry] = {}
    for section in sections:
        part = raw.get(section) or {}
        if not isinstance(part, dict):
            raise UserError(f"{path}: section {section} is {part!r}", hint="names and entries are needed")
        if section == "paper_grid":
            new = _grid(part, str(path)) if part else {}
        else:
            make = public_entry if section == "public" else own_entry
            new = {str(name): make(str(name), value, where=str(path)) for name, value in part.items()}
        twins = sorted(set(found) & set(new))
        if twins:
            raise UserError(f"{path}: entry {twins[0]} is in two sections", hint="remove one")
        found.update(new)
    return found


def _grid(part: Mapping[str, Any], where: str) -> dict[str, Entry]:
    """Depths x corpora of the paper, each with the command that would make it."""
    grid = check_entry("paper_grid", part, _GRID_KEYS, where=where)
    corpora = {
        str(key): check_entry(f"paper_grid.{key}", value, _CORPUS_KEYS, where=where)
        for key, value in grid["corpora"].items()
    }
    for key, corpus in corpora.items():
        if corpus.get("parent", key) not in corpora:
            raise UserError(
                f"{where}: entry paper_grid.{key}: key parent is {corpus['parent']!r}", hint="name a corpus"
            )
    entries = {}
    for depth in grid["depths"]:
        for key, corpus in corpora.items():
            facts = {k: v for k, v in corpus.items() if k not in ("parent", "config", "options")}
            name = _grid_name(depth, key)
            parent = _grid_name(depth, corpus["parent"]) if "parent" in corpus else None
            entries[name] = Entry(
                name=name,
                kind="paper",
                trunk="resnet",
                depth=depth,
                licence="not public",
                source=grid["source"],
                pixel_mean=_three(grid["pixel_mean"]),
                pixel_std=_three(grid["pixel_std"]),
                recipe=_recipe(corpus.get("config", grid["config"]).format(depth=depth), corpus["options"], parent),
                parent=parent,
                **facts,
            )
    return entries


def _three(values: Iterable[float]) -> tuple[float, float, float]:
    first, second, third = map(float, values)
    return first, second, third


def _grid_name(depth: int, corpus: str) -> str:
    return f"paper-R-{depth}-{corpus}"


def _recipe(config: str, options: Mapping[str, Any], parent: str | None) -> tuple[str, ...]:
    """Config and words of a run; CORPUS stands for the user's index folder (``scaleprior corpus build``)."""
    words = [config, "PRETRAIN.CORPUS", "CORPUS"]
    if parent is not None:
        words += ["MODEL.WEIGHTS", f"{parent}/backbone.safetensors"]
    for option, value in options.items():
        words += [option, str(value)]
    return tuple(words)
