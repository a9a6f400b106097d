"""How unevenly images are spread over labels: the long tail in standard terms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["LongTail", "measure_tail"]

_SHARES = (0.01, 0.1, 0.5)
_FEW = (10, 100)


@dataclass(frozen=True)
class LongTail:
    """The spread of n labels that occur, with x_1 <= ... <= x_n images.

    Attributes:
        labels: n.
        effective: exp(-sum p_i ln p_i) with p_i = x_i / sum x, in [1, n]: how many equally frequent labels would be as
            diverse (the number of order 1 of Hill, "Diversity and evenness", Ecology 54, 1973).
        gini: 2 sum_i i x_i / (n sum x) - (n + 1) / n, in [0, 1 - 1/n]: 0 where all are equally frequent (half of the
            relative mean absolute difference, written for ordered values).
        top: share of labels -> share of the pairs of image and label that the most frequent of them hold, e.g. 0.01:
            0.4. A share of labels is rounded up to a whole label.
        below: number of images -> how many labels have fewer.
    """

    labels: int
    effective: float
    gini: float
    top: Mapping[float, float]
    below: Mapping[int, int]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: shares as texts such as ``1%``."""
        return {
            "labels": self.labels,
            "effective": self.effective,
            "gini": self.gini,
            "top": {f"{share:.0%}": value for share, value in self.top.items()},
            "below": {str(images): labels for images, labels in self.below.items()},
        }


def measure_tail(counts: np.ndarray) -> LongTail:
    """The tail of images per label; labels without images are left out.

    Args:
        counts: integers [C], in any order.
    """
    x = np.sort(counts[counts > 0]).astype(np.float64)
    n = len(x)
    if n == 0:
        return LongTail(0, 0.0, 0.0, dict.fromkeys(_SHARES, 0.0), dict.fromkeys(_FEW, 0))
    total = float(x.sum())
    p = x / total
    gini = 2 * float(np.arange(1, n + 1) @ x) / (n * total) - (n + 1) / n
    return LongTail(
        labels=n,
        effective=math.exp(-float(p @ np.log(p))),
        gini=max(gini, 0.0),  # rounding may leave -1e-17 where all are equal
        top={share: float(x[n - math.ceil(share * n) :].sum()) / total for share in _SHARES},
        below={few: int((x < few).sum()) for few in _FEW},
    )
