"""Mean average precision and precision at 1 of a multi-label classifier on held-out images.

N images, C labels, F features. Scores are made and looked at for a chunk of labels after the other, so that those of
all labels, N x C, are never held; with several processes, each of them takes every W-th chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from scaleprior.pretrain.evaluation.average_precision import Pairs, judged_labels, label_chunks, precisions_of
from scaleprior.pretrain.evaluation.features import gathered, pooled_features
from scaleprior.pretrain.metrics import LabelMetrics
from scaleprior.training.processes import ProcessGroup

if TYPE_CHECKING:
    from scaleprior.pretrain.evaluation.crops import CropShare
    from scaleprior.pretrain.network.pretrainer import Pretrainer
    from scaleprior.training.signals import StopRequest

__all__ = ["Truth", "evaluate", "figures_of", "label_metrics"]


@dataclass(frozen=True)
class Truth:
    """What is known of N images.

    Attributes:
        images: N.
        present: the labels that they have, with ancestors.
        known: the labels of which it is known whether they have them, ``present`` among them; None: all.
    """

    images: int
    present: Pairs
    known: Pairs | None = None

    @classmethod
    def of_csr(
        cls, labels: np.ndarray, offsets: np.ndarray, absent: tuple[np.ndarray, np.ndarray] | None, *, classes: int
    ) -> Truth:
        """Of CSR: image i has ``labels[offsets[i]:offsets[i + 1]]``; those in ``absent`` it has not."""
        present, images = Pairs.of_csr(labels, offsets, classes=classes), len(offsets) - 1
        known = None if absent is None else present.with_(Pairs.of_csr(*absent, classes=classes), images=images)
        return cls(images, present, known)

    def to(self, device: torch.device) -> Truth:
        """The same on ``device``."""
        return replace(self, present=self.present.to(device), known=self.known.to(device) if self.known else None)


def evaluate(
    model: Pretrainer, share: CropShare, processes: ProcessGroup, *, stop: StopRequest | None = None
) -> LabelMetrics:
    """Figures of ``model`` on the central crops of ``share``'s images; see :func:`label_metrics`.

    Every process calls this, and gets the figures. They are the same for any number of processes and workers.
    Unreadable images are left out and counted. The model comes back as it was.

    Raises:
        FailureError: no image can be read. Interrupted: ``stop`` was requested, here or in another process.
    """
    found, images = pooled_features(model, share, processes, stop=stop), share.images
    space, rows = images.label_space, found.rows.numpy()
    truth = Truth.of_csr(*images.labels_of(rows), images.absent_of(rows), classes=len(space)).to(processes.device)
    head = model.head

    def scores(labels: Tensor) -> Tensor:
        with torch.inference_mode():
            return head.scores(found.values, labels)

    leaves = torch.from_numpy(space.leaves).to(processes.device)
    figures = figures_of(scores, truth, leaves, processes, own=head.own)
    return replace(figures, unreadable=found.unreadable)


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
    table = torch.from_numpy(scores)
    truth = Truth.of_csr(labels, offsets, absent, classes=scores.shape[1])
    alone = ProcessGroup(0, 1, torch.device("cpu"))
    return figures_of(lambda chosen: table.index_select(1, chosen), truth, torch.from_numpy(leaves), alone)


def figures_of(
    scores: Callable[[Tensor], Tensor],
    truth: Truth,
    leaves: Tensor,
    processes: ProcessGroup,
    *,
    own: slice | None = None,
    **chunks: int,
) -> LabelMetrics:
    """What :func:`label_metrics` says, of scores that are made when they are asked for; every process calls this.

    Args:
        scores: those of some labels, int64 [k]: [N, k].
        own: labels that this process alone can score; None: any process can score any.
        chunks: ``cells``, see ``label_chunks``.
    """
    images, present, known = truth.images, truth.present, truth.known
    judged = judged_labels(present, known, images=images)
    is_leaf = torch.zeros_like(judged).index_fill_(0, leaves.long(), True)
    precisions = torch.zeros(len(judged), dtype=torch.float64, device=judged.device)
    best = _BestLeaf(truth, is_leaf)
    mine = torch.ones_like(judged)
    if own is not None:
        mine[: own.start], mine[own.stop :] = False, False
    work = [(chosen, True) for chosen in label_chunks(judged & mine, present, images, **chunks)]
    work += [(chosen, False) for chosen in label_chunks(is_leaf & ~judged & mine, present, images, **chunks)]
    for chosen, to_judge in work if own is not None else work[processes.rank :: processes.size]:
        found = scores(chosen)
        best.look(found, chosen)
        if to_judge:
            precisions[chosen] = precisions_of(found, chosen, present, known)
    processes.all_reduce(precisions)  # each label's comes from one process: the sum is exact
    labels = int(judged.sum())
    return LabelMetrics(
        images=images,
        map_labels=labels,
        map=float(precisions[judged].mean()) if labels else None,
        precision_at_1=best.precision(processes),
        known=None if known is None else float(known.counts.sum()) / (images * len(judged)),
    )


class _BestLeaf:
    """Each image's best-scored leaf, of the known ones, over chunks of labels in any order; of equals the first."""

    def __init__(self, truth: Truth, is_leaf: Tensor) -> None:
        self._truth = truth
        self._is_leaf = is_leaf
        device = is_leaf.device
        self._scores = torch.full((truth.images,), -torch.inf, device=device)
        self._labels = torch.full((truth.images,), len(is_leaf), dtype=torch.int64, device=device)

    def look(self, scores: Tensor, chosen: Tensor) -> None:
        """At scores [N, k] of the labels ``chosen``, int64 [k], ascending."""
        wanted = torch.nonzero(self._is_leaf[chosen]).squeeze(1)
        if not len(wanted):
            return
        scores, labels = scores.index_select(1, wanted), chosen[wanted]
        if self._truth.known is not None:
            known = self._truth.known.mask(labels, images=self._truth.images)
            scores = scores.masked_fill(~known, -torch.inf)
        found, places = scores.max(dim=1)
        self._take(found, labels[places])

    def _take(self, scores: Tensor, labels: Tensor) -> None:
        self._scores = self._scores.to(scores.dtype)
        better = (scores > self._scores) | ((scores == self._scores) & (labels < self._labels))
        self._scores = torch.where(better, scores, self._scores)
        self._labels = torch.where(better, labels, self._labels)

    def precision(self, processes: ProcessGroup) -> float | None:
        """Share of the images with something to tell whose best leaf is present; None where no image has."""
        images, present, known = self._truth.images, self._truth.present, self._truth.known
        counts = [images] * processes.size
        others = gathered(self._scores, counts).split(images), gathered(self._labels, counts).split(images)
        for scores, labels in zip(*others):
            self._take(scores, labels)
        leaves = torch.bincount(present.rows[self._is_leaf[present.labels]], minlength=images)
        telling = leaves > 0
        if known is not None:  # an image whose known ones are all present has nothing to tell
            telling &= torch.bincount(known.rows[self._is_leaf[known.labels]], minlength=images) > leaves
        if not bool(telling.any()):
            return None
        rows = torch.arange(images, device=telling.device)
        return float(present.hold(rows, self._labels, images=images)[telling].double().mean())
