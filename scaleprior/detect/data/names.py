"""Names of detection sets, and the files they stand for: the user's own, COCO's under ``$DETECTRON2_DATASETS``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scaleprior.detect.data.minival import IDS_FILE, MINIVAL_SETS, split_val2014
from scaleprior.errors import UserError
from scaleprior.wording import either, shown

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["BUILTIN_SETS", "dataset_paths", "names_of_files", "no_such_place", "own_sets", "require_files"]

# name -> (JSON, image folder) under $DETECTRON2_DATASETS, as Detectron2 registers them
_BUILTIN = {
    "coco_2014_train": ("instances_train2014.json", "train2014"),
    "coco_2014_val": ("instances_val2014.json", "val2014"),
    "coco_2014_minival": ("instances_minival2014.json", "val2014"),
    "coco_2014_valminusminival": ("instances_valminusminival2014.json", "val2014"),
    "coco_2017_train": ("instances_train2017.json", "train2017"),
    "coco_2017_val": ("instances_val2017.json", "val2017"),
    "coco_2017_val_100": ("instances_val2017_100.json", "val2017"),
}
BUILTIN_SETS = (*_BUILTIN, *MINIVAL_SETS)
"""Names of COCO's sets, looked up under ``$DETECTRON2_DATASETS``."""


def names_of_files(files: Sequence[str | Path]) -> list[str]:
    """Names of sets that have none: stems, after as many folders as tell them apart (``train/_annotations.coco``)."""
    parts = [Path(os.path.abspath(file)).with_suffix("").parts for file in files]
    depth, different = 1, len(set(parts))
    while len({part[-depth:] for part in parts}) < different:
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]


def own_sets(cfg: CfgNode) -> dict[str, tuple[str, str]]:
    """Name -> (JSON, image root) of ``SCALEPRIOR.DATASETS``.

    Raises:
        UserError: a malformed entry, or two different ones under one name.
    """
    own: dict[str, tuple[str, str]] = {}
    for entry in cfg.SCALEPRIOR.DATASETS:
        if not isinstance(entry, (list, tuple)) or len(entry) != 3 or not all(isinstance(e, str) for e in entry):
            raise UserError(f"SCALEPRIOR.DATASETS has the entry {shown(entry)}", hint="give [name, json, image root]")
        if entry[0] in own and own[entry[0]] != (entry[1], entry[2]):
            raise UserError(f"SCALEPRIOR.DATASETS has two different sets called {entry[0]!r}", hint="rename one")
        own[entry[0]] = (entry[1], entry[2])
    return own


def dataset_paths(name: str, cfg: CfgNode) -> tuple[str, str]:
    """(JSON, image root) of a data set's name. The JSON of a part of val2014 is made first, if need be.

    Raises:
        UserError: an unknown name; lists the known ones. A malformed entry of SCALEPRIOR.DATASETS. For the parts of
            val2014 as ``minival.split_val2014``.
    """
    own = own_sets(cfg)
    if name in own:
        return own[name]
    coco = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser() / "coco"
    if name in _BUILTIN:
        annotations, images = _BUILTIN[name]
        return str(coco / "annotations" / annotations), str(coco / images)
    if name in MINIVAL_SETS:
        whole = coco / "annotations" / _BUILTIN["coco_2014_val"][0]
        require_files(name, str(whole), str(coco / "val2014"))
        listed = os.path.expanduser(os.path.expandvars(cfg.SCALEPRIOR.MINIVAL_IDS))
        ids = Path(listed) if listed else coco / "annotations" / IDS_FILE
        return str(split_val2014(name, whole, ids)), str(coco / "val2014")
    known = ", ".join([*own, *BUILTIN_SETS])
    files = either("give train or val as (json, root), or ", "")
    raise UserError(
        f"no data set is called {name!r}",
        hint=f"known are {known}; {files}add yours to SCALEPRIOR.DATASETS as [name, json, root]",
    )


def require_files(name: str, annotations: str, images: str) -> None:
    """Check that a set of COCO's own is where its name says.

    Raises:
        UserError: names the path that is not there, and DETECTRON2_DATASETS.
    """
    for what, path in (("annotations", annotations), ("images", images)):
        if not os.path.exists(path):
            raise no_such_place(name, what, path, holds="coco/")


def no_such_place(name: str, what: str, path: str, *, holds: str) -> UserError:
    """The error for a set that is looked up under ``$DETECTRON2_DATASETS`` and not there.

    Args:
        what: is missing at ``path``. holds: the folder below that variable's which has it, "coco/".
    """
    folder = os.environ.get("DETECTRON2_DATASETS")
    now = f"it is {folder}" if folder else "it is not set, which means ./datasets"
    files = either("; or give train and val", "") if holds == "coco/" else ""
    return UserError(
        f"data set {name}: no {what} at {path}",
        hint=f"set DETECTRON2_DATASETS to the folder that holds {holds} before Python starts; {now}{files}",
    )
