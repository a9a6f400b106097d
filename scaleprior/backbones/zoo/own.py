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
from scaleprior.backbones.zoo.schema import NAME_PATTERN, read_yaml
from scaleprior.errors import UserError
from scaleprior.files import atomic_path, file_sha256, write_text
from scaleprior.wording import parameter

__all__ = ["add_backbone"]


def add_backbone(file: str | Path, name: str) -> Entry:
    """Register a backbone under ``name``: its canonical file is copied into the zoo's folder.

    Args:
        file: whatever ``canonical_file`` takes.

    Raises:
        UserError: a bad or taken name, no backbone, or a file whose tensors are not those of its card.
        FailureError: the zoo's folder cannot be written.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise UserError(f"{parameter('name')} is {name!r}", hint="use letters, digits, '.', '_' and '-', at most 100")
    home = ZooHome.current()
    with home.lock("zoo.yaml"):
        if name in load_catalogue().entries:
            raise UserError(f"the zoo already has a backbone {name!r}", hint=f"choose another {parameter('name')}")
        file = canonical_file(file)
        _, card = load_canonical(file)
        sha256 = file_sha256(file)
        target = home.file(sha256, f"{name}.safetensors")
        with atomic_path(target) as temporary:
            shutil.copyfile(file, temporary)
            if file_sha256(temporary) != sha256:
                raise UserError(f"{file} changed while it was copied", hint="add it when its run has ended")
        raw: dict[str, Any] = read_yaml(home.catalogue) if home.catalogue.is_file() else {"schema": SCHEMA}
        raw["own"] = {**(raw.get("own") or {}), name: {"sha256": sha256, "card": card.to_dict()}}
        entry = own_entry(name, raw["own"][name], where=str(home.catalogue))
        write_text(home.catalogue, yaml.safe_dump(raw, sort_keys=False, allow_unicode=True))
    return entry
