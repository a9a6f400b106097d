"""What simple classifiers read from the features of a trunk that stays as it is: nearest neighbours, and a linear one.

N images to learn from, M to judge on, D features, C labels. A set whose images have one label each is judged by
accuracy, any other by mean average precision. Nothing is drawn at random: equal features give equal figures.

The k-NN probe is Wu et al.'s (2018, arXiv:1805.01978) with the settings of Caron et al. (2021, arXiv:2104.14294;
``eval_knn.py`` of facebookresearch/dino): the 20 nearest by cosine similarity s vote, each with weight exp(s / 0.07).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from scaleprior.pretrain.evaluation.average_precision import Pairs, judged_labels
from scaleprior.pretrain.evaluation.held_out import Truth, figures_of
from scaleprior.pretrain.evaluation.linear import Linear, fit_linear
from scaleprior.pretrain.metrics import LabelMetrics, ProbeMetrics
from scaleprior.training.processes import ProcessGroup

__all__ = ["PENALTIES", "ProbeSet", "knn_scores", "linear_scores", "probe"]

Scores = Callable[[Tensor], Tensor]
"""Scores [M, k] of some labels, int64 [k]; higher = more present."""

PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)
"""Strengths among which the linear probe's is chosen, the strongest first: each fit starts from the one before."""
_NEIGHBOURS, _TEMPERATURE = 20, 0.07
_DEVELOP = 5  # every fifth of the images to learn from, the last ones, judges the penalties


@dataclass(frozen=True)
class ProbeSet:
    """Features and labels of some images.

    Attributes:
        features: float32 or float64 [N, D]. truth: of these images, on the features' device.
        single: the label of each image, int64 [N], of a set whose images have one each; None for any other.
    """

    features: Tensor
    truth: Truth
    single: Tensor | None = None

    @classmethod
    def of_csr(
        cls,
        features: Tensor,
        labels: np.ndarray,
        offsets: np.ndarray,
        absent: tuple[np.ndarray, np.ndarray] | None = None,
        *,
        classes: int,
        single: bool,
    ) -> ProbeSet:
        """Image i has ``labels[offsets[i]:offsets[i + 1]]``: one label where ``single``."""
        truth = Truth.of_csr(labels, offsets, absent, classes=classes).to(features.device)
        own = torch.from_numpy(np.asarray(labels, dtype=np.int64)).to(features.device) if single else None
        return cls(features, truth, own)

    def part(self, start: int, stop: int) -> ProbeSet:
        """The images ``start`` .. ``stop - 1``."""
        classes = len(self.truth.present.counts)

        def cut(pairs: Pairs | None) -> Pairs | None:
            if pairs is None:
                return None
            ours = (pairs.rows >= start) & (pairs.rows < stop)
            return Pairs.of(pairs.rows[ours] - start, pairs.labels[ours], images=stop - start, classes=classes)

        present = cut(self.truth.present)
        assert present is not None
        truth = Truth(stop - start, present, cut(self.truth.known))
        return ProbeSet(self.features[start:stop], truth, None if self.single is None else self.single[start:stop])


def probe(train: ProbeSet, val: ProbeSet, kinds: tuple[str, ...], processes: ProcessGroup) -> ProbeMetrics:
    """Figures of the probes ``kinds``, "linear" and "knn"; every process calls this and gets them."""
    found: dict[str, float | None] = {}
    labels = 0
    for kind in kinds:
        if kind == "knn":
            scores = knn_scores(train, val)
        else:
            scores, found["linear_l2"] = linear_scores(train, val)
        judged = _judged(scores, val, processes)
        labels = judged.map_labels
        if val.single is not None:
            found[f"{kind}_accuracy"] = judged.precision_at_1
            labels = len(torch.unique(torch.cat((train.single, val.single)))) if train.single is not None else labels
        else:
            found[f"{kind}_map"] = judged.map
    return ProbeMetrics(train.truth.images, val.truth.images, labels, **found)  # pyright: ignore[reportArgumentType]


def _judged(scores: Scores, val: ProbeSet, processes: ProcessGroup) -> LabelMetrics:
    every = torch.arange(len(val.truth.present.counts), device=val.features.device)
    return figures_of(scores, val.truth, every, processes)


def knn_scores(train: ProbeSet, val: ProbeSet) -> Scores:
    """Each label's share of the votes of an image's nearest neighbours, in [0, 1]."""
    learned = F.normalize(train.features, dim=1)
    neighbours = min(_NEIGHBOURS, len(learned))
    nearest = [torch.topk(part @ learned.T, neighbours, dim=1) for part in F.normalize(val.features, dim=1).split(1024)]
    places = torch.cat([found.indices for found in nearest])
    votes = torch.softmax(torch.cat([found.values for found in nearest]).double() / _TEMPERATURE, dim=1)

    def scores(chosen: Tensor) -> Tensor:
        present = train.truth.present.mask(chosen, images=train.truth.images)
        total = torch.zeros(len(places), len(chosen), dtype=torch.float64, device=votes.device)
        for place, vote in zip(places.T, votes.T):
            total += present[place] * vote[:, None]
        return total

    return scores


def linear_scores(train: ProbeSet, val: ProbeSet) -> tuple[Scores, float]:
    """Scores of logistic regression on standardised features, and the strength of its penalty.

    Softmax over the labels of a set with one label an image, else a logistic regression of each label. The penalty is
    that of :data:`PENALTIES` with the least loss on the last fifth of ``train``, when learned from the rest; what
    judges has then learned from all of it.
    """
    mean, std = train.features.mean(dim=0), train.features.std(dim=0, correction=0)
    std = torch.where(std > 1e-6 * std.max(), std, 1.0)  # what never differs tells nothing, whatever it is elsewhere

    def standard(images: ProbeSet) -> ProbeSet:
        return ProbeSet((images.features - mean) / std, images.truth, images.single)

    train, val = standard(train), standard(val)
    images = train.truth.images
    first = images - max(images // _DEVELOP, 1)
    less, judge = train.part(0, first), train.part(first, images)
    best, fitted, chosen = float("inf"), None, PENALTIES[0]
    for penalty in PENALTIES:
        fitted = _fit(less, penalty, fitted)
        loss = fitted.loss(judge.features, judge.truth.present, judge.truth.known, judge.single)
        if loss < best:
            best, chosen = loss, penalty
    final = _fit(train, chosen, None)
    place = torch.full_like(val.truth.present.counts, -1)
    place[final.labels] = torch.arange(len(final.labels), device=place.device)

    def scores(labels: Tensor) -> Tensor:
        places = place[labels]
        found = val.features @ final.weight[:, places] + final.bias[places]
        return found.masked_fill(places < 0, -torch.inf)  # nothing was to be learned of these

    return scores, chosen


def _fit(images: ProbeSet, penalty: float, start: Linear | None) -> Linear:
    truth = images.truth
    if images.single is not None:
        labels = torch.unique(images.single)
    else:
        labels = torch.nonzero(judged_labels(truth.present, truth.known, images=truth.images)).squeeze(1)
    return fit_linear(
        images.features, labels, truth.present, truth.known, images.single, penalty=penalty, start=start
    )  # fmt: skip
