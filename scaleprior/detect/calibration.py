"""Whether a detector's scores mean what they say: of detections that are 80 % sure, 80 % should be right.

The detection expected calibration error (D-ECE) of Küppers et al., "Multivariate Confidence Calibration for Object
Detection", CVPR Workshops 2020, over the score alone: ``D-ECE = sum_b n_b / n * |precision_b - score_b|`` over bins of
the score, with n_b detections whose mean score is score_b and of which the share precision_b is right.

D detections and G objects of one class in one image.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from scaleprior.errors import UserError
from scaleprior.files import is_number

__all__ = ["Calibration", "ReliabilityBin", "calibration_of", "judged", "matched"]

BINS = 10
IOU = 0.5
PER_CLASS = 100
"""So many detections of a class count in an image, the best, as in COCO's AP."""

_RIGHT, _WRONG, _IGNORED = 1, 0, -1


@dataclass(frozen=True)
class ReliabilityBin:
    """Detections with a score from ``low`` to below ``high`` (the last bin holds 1, too).

    Attributes:
        detections: how many.
        score, precision: their mean score, and the share that is right, in [0, 1]; None where there are none.
    """

    low: float
    high: float
    detections: int
    score: float | None
    precision: float | None


@dataclass(frozen=True)
class Calibration:
    """How far scores and precision are apart.

    Attributes:
        d_ece: D-ECE in [0, 100]; None where nothing was detected.
        bins: ten of one width; what a reliability diagram shows.
    """

    d_ece: float | None
    bins: tuple[ReliabilityBin, ...]

    def to_dict(self) -> dict[str, Any]:
        """In the words of ``results.json``."""
        return {"D-ECE": self.d_ece, "bins": [asdict(each) for each in self.bins]}

    @classmethod
    def from_dict(cls, raw: Any, where: str) -> Calibration:
        """Read what :meth:`to_dict` wrote.

        Raises:
            UserError: a number is missing or is none; names ``where``.
        """
        try:
            bins = tuple(ReliabilityBin(**each) for each in raw["bins"])
            numbers = [raw["D-ECE"], *(value for each in bins for value in asdict(each).values())]
        except (KeyError, TypeError) as e:
            raise UserError(f"{where} is damaged: {e}", hint="evaluate again") from e
        odd = [value for value in numbers if not (value is None or is_number(value))]
        if odd:
            raise UserError(f"{where}: a number is {odd[0]!r}", hint="evaluate again")
        return cls(raw["D-ECE"], bins)


def calibration_of(scores: np.ndarray, right: np.ndarray) -> Calibration | None:
    """The calibration of detections; None where a score is outside [0, 1], so that it says nothing of a share.

    Args:
        scores: float [n]; right: bool [n].
    """
    if scores.size and not (scores.min() >= 0 and scores.max() <= 1):
        return None
    place = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    score, precision = (
        np.bincount(place, weights=weights, minlength=BINS) / np.maximum(counts, 1) for weights in (scores, right)
    )
    error = float((counts * np.abs(precision - score)).sum()) / scores.size * 100 if scores.size else None
    bins = (
        ReliabilityBin(
            number / BINS,
            (number + 1) / BINS,
            int(counts[number]),
            float(score[number]) if counts[number] else None,
            float(precision[number]) if counts[number] else None,
        )
        for number in range(BINS)
    )
    return Calibration(error, tuple(bins))


def judged(
    objects: Sequence[Mapping[str, Any]],
    detections: Sequence[Mapping[str, Any]],
    ious: Mapping[tuple[int, int], Any],
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the detections that count, and whether each is right: COCO's own matches at IoU 0.5.

    What lies on a crowd counts neither for nor against, as in COCO's AP.

    Args:
        objects, detections: entries of COCO's formats; image and category ids are numbers.
        ious: (image, category) -> [D, G], detections best first, :data:`PER_CLASS` at most, objects in their order;
            empty where there are no detections or no objects.

    Returns:
        float64 [n] and bool [n].
    """
    pairs = np.array([(d["image_id"], d["category_id"]) for d in detections], dtype=np.int64).reshape(-1, 2)
    scores = np.array([d["score"] for d in detections], dtype=np.float64)
    order = np.lexsort((-scores, pairs[:, 1], pairs[:, 0]))  # stable, as the evaluator's own order of equal scores
    pairs, scores = pairs[order], scores[order]
    starts = np.flatnonzero((np.diff(pairs, axis=0, prepend=-1) != 0).any(axis=1))
    rank = np.arange(len(pairs)) - np.repeat(starts, np.diff(starts, append=len(pairs)))
    outcome = np.full(len(pairs), _WRONG, dtype=np.int8)
    outcome[rank >= PER_CLASS] = _IGNORED

    ignored: defaultdict[tuple[int, int], list[bool]] = defaultdict(list)
    for each in objects:
        ignored[each["image_id"], each["category_id"]].append(bool(each["iscrowd"]))
    for start in starts.tolist():
        pair = (int(pairs[start, 0]), int(pairs[start, 1]))
        overlaps = np.asarray(ious.get(pair, ()))
        if overlaps.size:
            outcome[start : start + len(overlaps)] = matched(overlaps, ignored[pair])
    counts = outcome != _IGNORED
    return scores[counts], outcome[counts] == _RIGHT


def matched(overlaps: np.ndarray, ignored: Sequence[bool], threshold: float = IOU) -> np.ndarray:
    """What COCO's greedy matching makes of each detection: 1 right, 0 wrong, -1 not counted; int8 [D].

    The best detection chooses first, the object that it overlaps most of those that are left; an ignored one (a crowd)
    only where none of the others will do, and as often as is asked for.

    Args:
        overlaps: IoU [D, G], best detection first.
        ignored: of each object.
    """
    outcome = np.zeros(len(overlaps), dtype=np.int8)
    objects = sorted(range(len(ignored)), key=lambda g: ignored[g])
    taken: set[int] = set()
    for detection in np.flatnonzero(overlaps.max(axis=1) >= threshold).tolist():
        row = overlaps[detection].tolist()
        best, chosen = threshold, -1
        for g in objects:
            if g in taken:
                continue
            if chosen >= 0 and ignored[g] and not ignored[chosen]:
                break
            if row[g] >= best:  # of equal ones the last
                best, chosen = row[g], g
        if chosen < 0:
            continue
        outcome[detection] = _IGNORED if ignored[chosen] else _RIGHT
        if not ignored[chosen]:
            taken.add(chosen)
    return outcome
