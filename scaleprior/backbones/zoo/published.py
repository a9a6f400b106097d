"""Detection results as data: ``model_zoo/*_results.yaml``, with a source, and never ours unless measured here.

A file has ``measured_here: false`` and a ``source``, or ``measured_here: true`` and, in every row, what is needed to
measure it again: config, seed, engine, commit and the hash of the detection set. AP is in [0, 100].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaleprior.ap_names import AP_NAMES
from scaleprior.backbones.zoo.schema import (
    COUNT,
    NUMBER,
    SECTION,
    SHA256,
    TEXT,
    Kind,
    check_entry,
    list_of,
    one_of,
    optional,
    read_yaml,
)
from scaleprior.errors import UserError

__all__ = ["ResultTable", "load_results", "read_results"]

_AP = Kind("a number in [0, 100]", lambda v: NUMBER.fits(v) and 0 <= v <= 100)
_SEED = Kind("a whole number of at least 0", lambda v: type(v) is int and v >= 0)
_TABLE_KEYS = {
    "schema": one_of(1),
    "measured_here": one_of(False, True),
    "source": TEXT,
    "dataset": TEXT,
    "detector": TEXT,
    "rows": list_of(SECTION),
}
_ROW_KEYS = {"pretraining": TEXT, "images": COUNT, "ap": _AP, **{m: optional(_AP) for m in AP_NAMES if m != "ap"}}
_OURS = {"config": TEXT, "seed": _SEED, "engine": TEXT, "commit": TEXT, "dataset_sha256": SHA256}


@dataclass(frozen=True)
class ResultTable:
    """One file of results.

    Attributes:
        measured_here: by ScalePrior, with everything to measure it again in each row.
        source: the publication, or the command.
        rows: ``pretraining``, ``images``, ``ap`` and what else is known.
    """

    name: str
    measured_here: bool
    source: str
    dataset: str
    detector: str
    rows: tuple[Mapping[str, Any], ...]


def load_results() -> list[ResultTable]:
    """All tables of ScalePrior's ``model_zoo/``.

    Raises:
        UserError: see :func:`read_results`.
    """
    from scaleprior.config import data_file

    folder = data_file("model_zoo", "zoo.yaml").parent
    return [read_results(path) for path in sorted(folder.glob("*_results.yaml"))]


def read_results(path: Path) -> ResultTable:
    """One file.

    Raises:
        UserError: names file, row and key.
    """
    name = path.name.removesuffix("_results.yaml")
    table = check_entry(name, read_yaml(path), _TABLE_KEYS, where=str(path))
    if not isinstance(table["measured_here"], bool):
        raise UserError(f"{path}: measured_here is {table['measured_here']!r}", hint="give true or false")
    keys = {**_ROW_KEYS, **(_OURS if table["measured_here"] else {})}
    rows = tuple(check_entry(f"row-{i}", row, keys, where=str(path)) for i, row in enumerate(table["rows"], 1))
    return ResultTable(name, table["measured_here"], table["source"], table["dataset"], table["detector"], rows)
