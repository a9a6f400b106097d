"""Mean average precision and precision at 1 of a multi-label classifier on held-out images.

N images, C labels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from scaleprior.errors import FailureError, UserError
from scaleprior.pretrain.metrics import LabelMetrics

if TYPE_CHECKING:
    from scaleprior.pretrain.data.augment import CropAugmentation
    from scaleprior.pretrain.data.batches import ImageSet
    from scaleprior.pretrain.network.pretrainer import Pretrainer

__all__ = ["average_precision", "evaluate", "label_metrics"]


def average_precision(scores: np.ndarray, present: np.ndarray) -> float:
    """Average precision of one label: the mean, over the images that have it, of the precision at their score.

    Images with equal scores come in together, so the order of ties cannot matter:
    ``AP = sum_k (R_k - R_(k-1)) P_k`` over the distinct scores from the highest down.

    Args:
        scores: floating [N]. present: bool [N], at least one True.

    Returns:
        In (0, 1].
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(present[order])
    last_of_score = np.append(np.diff(scores[order]) != 0, True)
    hits, ranks = hits[last_of_score], np.flatnonzero(last_of_score) + 1
    gained = np.diff(hits, prepend=0)
    return float((gained * hits / ranks).sum() / hits[-1])


def label_metrics(
    scores: np.ndarray,
    labels: np.ndarray,
    offsets: np.ndarray,
    leaves: np.ndarray,
    *,
    absent: tuple[np.ndarray, np.ndarray] | None = None,
) -> LabelMetrics:
    """Figures over all labels.

    With ``absent``, a pair of image and label that is listed nowhere is unknown and left out, as in Open Images'
    evaluation: a label's average precision is over the images for which it was verified.

    Args:
        scores: floating [N, C], higher = more present.
        labels, offsets: CSR of the true labels with their ancestors.
        leaves: indices of the labels without children; precision at 1 looks at these alone, since guessing the root
            of the hierarchy is always right.
        absent: CSR of the labels known to be absent, with their descendants; None: all that are not listed.
    """
    present = _dense(labels, offsets, scores.shape)
    known = np.ones_like(present) if absent is None else present | _dense(*absent, scores.shape)
    counts, judged = present.sum(axis=0), known.sum(axis=0)
    usable = np.flatnonzero((counts > 0) & (counts < judged))
    average_precisions = [average_precision(scores[known[:, c], c], present[known[:, c], c]) for c in usable]
    return LabelMetrics(
        images=len(scores),
        map_labels=len(usable),
        map=float(np.mean(average_precisions)) if len(usable) else None,
        precision_at_1=_precision_at_1(
            scores[:, leaves], present[:, leaves], None if absent is None else known[:, leaves]
        ),
        known=None if absent is None else float(known.mean()),
    )


def _dense(labels: np.ndarray, offsets: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    dense = np.zeros(shape, dtype=bool)
    dense[np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)), labels] = True
    return dense


def _precision_at_1(scores: np.ndarray, present: np.ndarray, known: np.ndarray | None) -> float | None:
    """Of leaves [N, L]; where only some are known, an image whose known ones are all present has nothing to tell."""
    with_leaf = present.any(axis=1)
    if known is not None:
        with_leaf &= (known & ~present).any(axis=1)
        scores = np.where(known, scores, -np.inf)
    if not with_leaf.any():
        return None
    best = scores.argmax(axis=1)
    return float(present[np.arange(len(scores)), best][with_leaf].mean())


def evaluate(
    model: Pretrainer,
    images: ImageSet,
    augmentation: CropAugmentation,
    *,
    order: str,
    batch_size: int,
    device: torch.device,
) -> LabelMetrics:
    """Figures of ``model`` on ``images`` with central crops; see :func:`label_metrics`.

    Unreadable images are left out and counted. The model is put back into its mode.

    Raises:
        FailureError: no image can be read.
    """
    was_training = model.training
    model.eval()
    scores, rows, unreadable = [], [], 0
    try:
        for start in range(0, len(images), batch_size):
            crops = []
            for row in range(start, min(start + batch_size, len(images))):
                try:
                    crops.append(augmentation.evaluate(images.decode(row, order)))
                    rows.append(row)
                except UserError:
                    unreadable += 1
            if crops:
                with torch.inference_mode():
                    scores.append(model(torch.from_numpy(np.stack(crops)).to(device)).float().cpu().numpy())
    finally:
        model.train(was_training)
    if not rows:
        raise FailureError(f"none of the {len(images)} held-out images can be read", hint="check PRETRAIN.HELD_OUT")
    labels, offsets = images.labels_of(np.asarray(rows))
    absent = images.absent_of(np.asarray(rows))
    figures = label_metrics(np.concatenate(scores), labels, offsets, images.label_space.leaves, absent=absent)
    return replace(figures, unreadable=unreadable)
