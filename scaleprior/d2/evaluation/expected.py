"""``TEST.EXPECTED_RESULTS``: checked before the training for sense, and after the evaluation for truth."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode

from scaleprior.detect.metrics import DetectionResult
from scaleprior.errors import FailureError, UserError

__all__ = ["check_expected", "verify_expected"]

logger = logging.getLogger(__name__)

_KEY = "TEST.EXPECTED_RESULTS"


def check_expected(cfg: CfgNode) -> None:
    """Refuse expectations that no evaluation could be held against.

    Raises:
        UserError: an entry is not [task, metric, value, tolerance]; there is not exactly one test set.
    """
    expected = cfg.TEST.EXPECTED_RESULTS
    for entry in expected:
        if not isinstance(entry, (list, tuple)) or [_kind(part) for part in entry] != [str, str, float, float]:
            raise UserError(
                f"{_KEY} has the entry {entry!r}",
                hint="give [task, metric, value, tolerance]: ['bbox', 'AP', 38.5, 0.2]",
            )
    if expected and len(cfg.DATASETS.TEST) != 1:
        raise UserError(
            f"{_KEY} is set, and DATASETS.TEST names {len(cfg.DATASETS.TEST)} sets",
            hint="Detectron2 holds it against the numbers of one set: name one, or leave the key out",
        )


def verify_expected(cfg: CfgNode, results: Mapping[str, DetectionResult]) -> None:
    """Hold what was found on the one set against ``TEST.EXPECTED_RESULTS``.

    Raises:
        FailureError: lists what differs by more than its tolerance, or is not there.
    """
    found = next((result.metrics for result in results.values()), None) or {}
    differing = []
    for task, metric, value, tolerance in cfg.TEST.EXPECTED_RESULTS:
        actual = found.get(task, {}).get(metric)
        if actual is None or abs(actual - value) > tolerance:
            said = "not measured" if actual is None else format(actual, ".4g")
            differing.append(f"{task} {metric} is {said}, not {value:g} within {tolerance:g}")
    if differing:
        raise FailureError(f"{_KEY}: {'; '.join(differing)}", hint="the results are recorded; see what changed")
    if cfg.TEST.EXPECTED_RESULTS:
        logger.info("%s: all %d are met", _KEY, len(cfg.TEST.EXPECTED_RESULTS))


def _kind(part: Any) -> type:
    return float if isinstance(part, (int, float)) and not isinstance(part, bool) else type(part)
