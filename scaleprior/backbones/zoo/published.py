"""Detection results that others published, as data: ``model_zoo/*_results.yaml``. AP is in [0, 100].

What is measured here is a published study, ``model_zoo/results/NAME/``, whose report can be made again.
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
    TEXT,
    Kind,
    check_entry,
    list_of,
    one_of,
    optional,
    read_yaml,
)

__all__ = ["ResultTable", "load_results", "read_results"]

_AP = Kind("a number in [0, 100]", lambda v: NUMBER.fits(v) and 0 <= v <= 100)
_TABLE_KEYS = {
    "schema": one_of(1),
    "source": TEXT,
    "dataset": TEXT,
    "detector": TEXT,
    "rows": list_of(SECTION),
}
_ROW_KEYS = {"pretraining": TEXT, "images": COUNT, "ap": _AP, **{m: optional(_AP) for m in AP_NAMES if m != "ap"}}


@dataclass(frozen=True)
class ResultTable:
    """One file of results.

    Attributes:
        source: the publication.
        rows: ``pretraining``, ``images``, ``ap`` and what else is known.
    """

    name: str
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
    rows = tuple(check_entry(f"row-{i}", row, _ROW_KEYS, where=str(path)) for i, row in enumerate(table["rows"], 1))
    return ResultTable(name, table["source"], table["dataset"], table["detector"], rows)
