"""Rows of evaluated detectors in one CSV file, which ``scaleprior laws fit`` reads; every engine writes them alike."""

from __future__ import annotations

import fcntl
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.ap_names import AP_NAMES
from scaleprior.backbones.trunks.resnet.spec import NORMS, ResNetSpec
from scaleprior.backbones.trunks.selection import is_timm_config, spec_from_config
from scaleprior.detect.identity import TUNING, detector_words, ladder_of, settings_of_test
from scaleprior.detect.metrics import DetectionResult
from scaleprior.errors import FailureError, UserError
from scaleprior.files import write_csv
from scaleprior.parsing import read_csv
from scaleprior.spreadsheets import unguarded
from scaleprior.wording import in_short

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from scaleprior.backbones.card import Card
    from scaleprior.detect.trained import TrainedDetector

__all__ = ["COLUMNS", "append_result"]

_FIRST_COLUMNS = (
    "arch", "images", "seed", *AP_NAMES, "engine", "dataset", "backbone", "tensors_sha256", "detector", "max_iter",
    "version", "commit", "run",
)  # fmt: skip
COLUMNS = (*_FIRST_COLUMNS, *TUNING, "test_settings", "corpus", "recipe", "comparable")
"""Columns that came later follow the first ones."""
_ONE_EVALUATION = ("run", "dataset", "engine")


def append_result(
    path: str | Path,
    results: Mapping[str, DetectionResult],
    *,
    cfg: CfgNode,
    engine: str,
    trained: TrainedDetector | None,
    model: str | Path,
) -> None:
    """Append one row a data set that has a box AP; the row of an evaluation that is repeated is replaced.

    A set that was also evaluated with test-time augmentation has a second row, whose ``detector`` ends in ``+TTA``.

    A file that an earlier version wrote gets the columns that it lacks, with empty cells: what they say is not known.

    Args:
        results: what ``Engine.evaluate`` returned, by name of the set.
        trained: what the model says of its training; without a card it is one from scratch (``images`` is 0 then).
            None where it says nothing: ``images`` stays empty, and ``scaleprior laws fit`` asks for it, rather than
            take the detector for one from scratch.
        model: the file; stands for the run of which nothing is known.

    Raises:
        UserError: the file is there and is not one of these. FailureError: it cannot be written.
    """
    path = Path(path)
    card = None if trained is None else trained.card
    training = {"images": "", "run": str(model)} if trained is None else _training(trained)
    augmented = [(name, result.augmented, True) for name, result in results.items() if result.augmented is not None]
    measured = [*((name, result, False) for name, result in results.items()), *augmented]
    rows = [
        {
            "arch": _arch(cfg, card),
            **{column: None if ap is None else round(ap, 6) for column, ap in result.named().items()},
            "engine": engine,
            "dataset": name,
            "backbone": "" if card is None else card.name,
            "tensors_sha256": "" if card is None else card.tensors_sha256,
            "detector": detector_words(cfg) + ("+TTA" if tta else ""),
            "test_settings": settings_of_test(cfg, augmented=tta),
            **ladder_of(card),
            **training,
        }
        for name, result, tta in measured
        if result.has_boxes
    ]
    if not rows:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Runs that end at once share a file: each waits for its turn to read, add and replace.
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            old = [row for row in _read(path) if not any(_same(row, new) for new in rows)]
            write_csv(path, COLUMNS, old + rows)
    except OSError as e:
        raise FailureError(f"cannot write {path}: {e.strerror or e}", hint="change SCALEPRIOR.RESULTS") from e


def _training(trained: TrainedDetector) -> dict[str, Any]:
    return {
        # of a detector's pretraining nobody knows; empty is not 0, which is "from scratch"
        "images": "" if trained.start else 0 if trained.card is None else trained.card.images,
        "seed": trained.seed,
        "max_iter": trained.max_iter,
        "version": trained.created_by["version"],
        "commit": trained.created_by["commit"],
        "run": trained.fingerprint,
        **{column: value for column, value in trained.tuning.items() if column in TUNING},
    }


def _arch(cfg: CfgNode, card: Card | None) -> str:
    if card is not None:
        return card.arch.name
    if is_timm_config(cfg):
        return spec_from_config(cfg).name
    if "resnet" not in cfg.MODEL.BACKBONE.NAME:
        return cfg.MODEL.BACKBONE.NAME  # a trunk of Detectron2's or of the user's that MODEL.RESNETS says nothing about
    cfg = cfg.clone()
    cfg.defrost()
    if cfg.MODEL.RESNETS.NORM not in NORMS:  # SyncBN and others are in no name
        cfg.MODEL.RESNETS.NORM = "BN"
    return ResNetSpec.from_config(cfg).name


def _read(path: Path) -> list[dict[str, str]]:
    if not os.path.lexists(path):
        return []
    lines = read_csv(path, what="SCALEPRIOR.RESULTS:", delimiter=",")
    columns = tuple(next(lines, (0, []))[1])
    if columns != COLUMNS[: max(len(columns), len(_FIRST_COLUMNS))]:
        raise UserError(
            f"SCALEPRIOR.RESULTS: {path} has other columns than these rows: {in_short(', '.join(columns), 1000)}",
            hint="name another file",
        )
    rows = []
    for line, cells in lines:
        if len(cells) > len(columns):
            raise UserError(
                f"SCALEPRIOR.RESULTS: {path}, line {line}: more cells than columns",
                hint="repair the line or name another file",
            )
        if cells:
            rows.append(dict(itertools.zip_longest(columns, map(unguarded, cells), fillvalue="")))
    return rows


def _same(old: Mapping[str, str], new: Mapping[str, Any]) -> bool:
    """One evaluation: measured again under other settings of the test it is another one."""
    return all(old[key] == str(new[key]) for key in _ONE_EVALUATION) and (
        old.get("test_settings", "") in ("", new["test_settings"])
    )
