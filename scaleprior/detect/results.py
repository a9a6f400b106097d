"""Rows of evaluated detectors in one CSV file, which ``scaleprior laws fit`` reads; every engine writes them alike."""

from __future__ import annotations

import csv
import fcntl
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.backbones.spec import ResNetSpec
from scaleprior.errors import FailureError, UserError
from scaleprior.files import write_csv

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["COLUMNS", "METRICS", "append_result"]

METRICS = {
    "ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_small": "APs", "ap_medium": "APm", "ap_large": "APl",
}  # fmt: skip
"""Column -> key of ``Engine.evaluate``'s result; AP in [0, 100]."""
COLUMNS = (
    "arch", "images", "seed", *METRICS, "engine", "dataset", "backbone", "tensors_sha256", "detector", "max_iter",
    "version", "commit", "run",
)  # fmt: skip
_IDENTITY = ("run", "dataset", "engine")


def append_result(
    path: str | Path,
    results: Mapping[str, Any],
    *,
    cfg: CfgNode,
    engine: str,
    card: Mapping[str, Any] | None,
    run: Mapping[str, Any],
) -> None:
    """Append one row a data set of ``cfg.DATASETS.TEST``; the row of an evaluation that is repeated is replaced.

    Args:
        results: what ``Engine.evaluate`` returned.
        card: the backbone's, as a dict; None from scratch (``images`` is 0 then).
        run: of the training: ``seed``, ``max_iter``, ``version`` and ``commit`` of the program, ``run`` (fingerprint).

    Raises:
        UserError: the file is there and is not one of these. FailureError: it cannot be written.
    """
    path, sets = Path(path), list(cfg.DATASETS.TEST)
    by_set = {sets[0]: results} if len(sets) == 1 else results
    rows = [
        {
            "arch": _arch(cfg, card),
            "images": 0 if card is None else card["images"],
            **{column: None if result[key] is None else round(result[key], 6) for column, key in METRICS.items()},
            "engine": engine,
            "dataset": name,
            "backbone": "" if card is None else card["name"],
            "tensors_sha256": "" if card is None else card["tensors_sha256"],
            "detector": cfg.MODEL.BACKBONE.NAME,
            **run,
        }
        for name, result in by_set.items()
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Runs that end at once share a file: each waits for its turn to read, add and replace.
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            old = [row for row in _read(path) if not any(_same(row, new) for new in rows)]
            write_csv(path, COLUMNS, old + rows)
    except OSError as e:
        raise FailureError(f"cannot write {path}: {e.strerror or e}", hint="change SCALEPRIOR.RESULTS") from e


def _arch(cfg: CfgNode, card: Mapping[str, Any] | None) -> str:
    if card is not None and card["arch"].get("family") == "timm":
        return card["arch"]["model"]
    return ResNetSpec.from_dict(card["arch"]).name if card is not None else ResNetSpec.from_cfg(cfg).name


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise UserError(
                f"SCALEPRIOR.RESULTS: {path} has other columns than these rows: {', '.join(reader.fieldnames or ())}",
                hint="name another file",
            )
        return list(reader)


def _same(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return all(old[key] == str(new[key]) for key in _IDENTITY)
