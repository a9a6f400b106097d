"""Backbones of the user's own in the zoo: a copy under its hash, and an entry in the user's catalogue."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from scaleprior.backbones.canonical import canonical_file
from scaleprior.backbones.weights import load_canonical
from scaleprior.backbones.zoo.cache import ZooHome
from scaleprior.backbones.zoo.catalogue import SCHEMA, load_catalogue
from scaleprior.backbones.zoo.entry import Entry, own_entry
from scaleprior.backbones.zoo.rung import fill
from scaleprior.backbones.zoo.schema import NAME_PATTERN, read_yaml
from scaleprior.errors import UserError
from scaleprior.files import atomic_path, file_sha256, write_text
from scaleprior.wording import parameter

__all__ = ["add_backbone", "remove_backbone"]

_HELD = {"own": "which you registered", "public": "which is public"}


def add_backbone(file: str | Path, name: str) -> Entry:
    """Register a backbone under ``name``: its canonical file is copied into the zoo's folder.

    Args:
        file: whatever ``canonical_file`` takes.
        name: free, or one of the catalogue's whose weights are not public: the card then has to fit that entry, and
            ``checked``, ``differs`` and ``unchecked`` of what is returned say in what.

    Raises:
        UserError: a bad or taken name, no backbone, a file whose tensors are not those of its card, or a card that
            contradicts the entry of that name.
        FailureError: the zoo's folder cannot be written.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise UserError(f"{parameter('name')} is {name!r}", hint="use letters, digits, '.', '_' and '-', at most 100")
    home = ZooHome.current()
    with home.lock("zoo.yaml"):
        taken = load_catalogue().entries.get(name)
        if taken is not None and taken.kind != "paper":
            other = f"choose another {parameter('name')}"
            hint = f"{other}, or `scaleprior zoo remove {name}` first" if taken.kind == "own" else other
            raise UserError(f"the zoo already has a backbone {name!r}, {_HELD[taken.kind]}", hint=hint)
        file = canonical_file(file)
        _, card = load_canonical(file)
        sha256 = file_sha256(file)
        value = {"sha256": sha256, "card": card.to_dict()}
        entry = own_entry(name, value, where=str(home.catalogue))
        if taken is not None:
            entry = fill(taken, entry, where=str(file))  # before anything is written
        target = home.file(sha256, f"{name}.safetensors")
        with atomic_path(target) as temporary:
            shutil.copyfile(file, temporary)
            if file_sha256(temporary) != sha256:
                raise UserError(f"{file} changed while it was copied", hint="add it when its run has ended")
        raw: dict[str, Any] = read_yaml(home.catalogue) if home.catalogue.is_file() else {"schema": SCHEMA}
        raw["own"] = {**(raw.get("own") or {}), name: value}
        _write(home, raw)
    return entry


def remove_backbone(name: str) -> Path:
    """Forget a backbone of the user's own; a name of the catalogue's that it stood for is not public again.

    Returns:
        The zoo's copy of its file, which stays: it may be the only one.

    Raises:
        UserError: the user has registered none of that name.
        FailureError: the zoo's folder cannot be written.
    """
    home = ZooHome.current()
    with home.lock("zoo.yaml"):
        # not load_catalogue: an entry that keeps it from loading can be removed, too
        raw = read_yaml(home.catalogue) if home.catalogue.is_file() else {}
        own = raw.get("own") or {}
        if not isinstance(own, dict) or name not in own:
            others = ", ".join(map(str, own)) or "none"
            raise UserError(f"you have registered no backbone {name!r}", hint=f"registered: {others}")
        value = own.pop(name)
        _write(home, {**raw, "own": own})
    sha256 = value.get("sha256", "") if isinstance(value, dict) else ""
    return home.file(str(sha256), f"{name}.safetensors")


def _write(home: ZooHome, raw: dict[str, Any]) -> None:
    write_text(home.catalogue, yaml.safe_dump(raw, sort_keys=False, allow_unicode=True))
