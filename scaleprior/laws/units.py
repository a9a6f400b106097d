"""In which unit a column of a results file is written, as far as its name and its neighbours can tell.

COCO's numbers go by one name in two units: pycocotools prints fractions, Detectron2, papers and this package percent.
Above 1 there is no doubt. At most 1 there is: an AP of 0.4 is a weak detector in percent and a strong one in fractions.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from scaleprior.errors import UserError
from scaleprior.laws.choosing import Cells
from scaleprior.laws.spelling import decimal
from scaleprior.wording import parameter

__all__ = ["AUTO", "OURS", "PERCENT", "UNCLEAR", "check_unit", "unit_of_column"]

AUTO, OURS, PERCENT, UNCLEAR = "auto", "ours", "percent", "unclear"
# AP and AR as COCO, LVIS and detection frameworks call them: ap50, APs, mAP, bbox/AP, segm_AP75, metrics/mAP50-95(B)
_AP = re.compile(r"(?<![a-z])m?(ap(\d+|[smlrcf]|bb|mk|box|mask)?|ar(\d+|[sml])?)(?![a-z])", re.IGNORECASE)
# Columns that only this package's files have together: a study's, and those of SCALEPRIOR.RESULTS. Both are percent.
_OURS = ({"engine", "cell", "images_seen"}, {"engine", "tensors_sha256", "test_settings"})


def unit_of_column(column: str, columns: Collection[str], lines: Sequence[tuple[int, Cells]]) -> str:
    """The unit of a column of the metric.

    Args:
        column: its name.
        columns: of the file.
        lines: (line, cells) of all rows of the file, also those that nobody asked for.

    Returns:
        :data:`AUTO` where the name is none of AP or AR: the values decide as they do in ``fit_law``. Of AP and AR
        :data:`OURS` (percent) in a file of this package, :data:`PERCENT` where one of their columns has a value above
        1, else :data:`UNCLEAR`.
    """
    if not _is_ap(column):
        return AUTO
    if any(ours <= set(columns) for ours in _OURS):
        return OURS
    alike = [c for c in columns if _is_ap(c)]
    values = (value for _, cells in lines for c in alike if (value := decimal(cells.get(c, ""))) is not None)
    return PERCENT if any(value > 1.0 for value in values) else UNCLEAR


def check_unit(unit: str, found: str, column: str, series: Mapping[str, Sequence[float]], source: str) -> str:
    """The unit to fit scores of a column in: what is asked for, or what was found; asks where that is unclear.

    Args:
        unit: that is asked for; "auto" for what was found.
        found: of :func:`unit_of_column`.
        series: name -> values.

    Raises:
        UserError: nobody said it and nothing tells.
    """
    if unit != AUTO or found != UNCLEAR:
        return unit if unit != AUTO else PERCENT if found == OURS else found
    highest = max((value for values in series.values() for value in values), default=0.0)
    if highest <= 0.0:
        return PERCENT  # 0 is 0 in both
    raise UserError(
        f"{source}: {column} is at most {highest:g}, which may be {100 * highest:g} or {highest:g} percent",
        hint=f"say {parameter('unit', 'fraction')} (as pycocotools prints them) or {parameter('unit', 'percent')}",
    )


def _is_ap(column: str) -> bool:
    return _AP.search(column.replace("_", " ")) is not None
