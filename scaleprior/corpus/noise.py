"""Deterministic label noise: wrong labels at a given rate, and dropped labels.

Shapes: N images, M labels, CSR as in ``label_space``. All that is random about an image comes from its key's hash,
the seed and the label, so an image keeps its noise when its fraction grows, moves or is read in another order.
"""

from __future__ import annotations

import numpy as np

from scaleprior.corpus.hashing import mix64, unit_interval
from scaleprior.corpus.label_space import LabelSpace
from scaleprior.errors import UserError

__all__ = ["corrupt_labels"]

_WRONG, _DROP, _CHOICE = 1, 2, 3  # independent random streams
_TRIES = 16  # draws before the candidates of a row are listed one by one


def corrupt_labels(
    labels: np.ndarray,
    offsets: np.ndarray,
    keys_hash: np.ndarray,
    label_space: LabelSpace,
    *,
    rate: float,
    kind: str = "uniform",
    drop: float = 0.0,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Replace each label by a wrong one with probability ``rate``, then drop each with probability ``drop``.

    A wrong label is never one of the image's right labels nor an ancestor of one. When no wrong label exists for an
    image (it has every leaf), its labels stay.

    Args:
        labels: integers [M], unique in each row.
        offsets: int64 [N + 1].
        keys_hash: uint64 [N], ``Fraction.hashes()``.
        label_space: where wrong labels come from.
        rate: probability in [0, 1] that a label is replaced, independently for each label.
        kind: "uniform": any leaf, equally likely; "sibling": a node that shares a parent with the label (any leaf
            where there is none).
        drop: probability in [0, 1] that a label, right or wrong, is left out; an image may lose all.
        seed: another seed gives other, independent noise.

    Returns:
        int32 labels, ascending and unique in each row, and int64 offsets [N + 1]. Two labels of an image that were
        replaced by the same wrong label count once.

    Raises:
        UserError: a rate outside [0, 1], an unknown kind, or shapes that disagree.
    """
    for what, value in (("rate", rate), ("drop", drop)):
        if not 0 <= value <= 1:
            raise UserError(f"label noise {what} {value}", hint="give a probability from 0 to 1")
    if kind not in ("uniform", "sibling"):
        raise UserError(f"label noise kind {kind!r}", hint='use "uniform" or "sibling"')
    labels = np.asarray(labels, dtype=np.int64)
    offsets = np.asarray(offsets, dtype=np.int64)
    if len(keys_hash) != len(offsets) - 1 or offsets[-1] != len(labels):
        raise UserError(
            f"{len(labels)} labels, {len(offsets)} offsets and {len(keys_hash)} hashes do not fit together",
            hint="pass labels(), offsets and hashes() of one fraction",
        )
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    hashes = keys_hash[rows]
    noisy = labels.copy()
    wrong = np.flatnonzero(unit_interval(mix64(hashes, labels, seed, _WRONG)) < rate)
    if wrong.size:
        right = _RightLabels(label_space, labels, offsets)
        choose = _uniform if kind == "uniform" else _sibling
        noisy[wrong] = choose(label_space, right, labels[wrong], rows[wrong], hashes[wrong], seed)
    kept = unit_interval(mix64(hashes, labels, seed, _DROP)) >= drop
    flat = np.unique(rows[kept] * len(label_space) + noisy[kept])
    counts = np.bincount(flat // len(label_space), minlength=len(offsets) - 1)
    return (flat % len(label_space)).astype(np.int32), np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


class _RightLabels:
    """Which nodes are right for which row: its labels and all their ancestors."""

    def __init__(self, label_space: LabelSpace, labels: np.ndarray, offsets: np.ndarray) -> None:
        self._labels, self._offsets = label_space.expand(labels, offsets)
        self._nodes = len(label_space)
        rows = np.repeat(np.arange(len(offsets) - 1), np.diff(self._offsets))
        self._pairs = rows * self._nodes + self._labels  # ascending, because rows and labels are

    def contain(self, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Boolean, elementwise: is ``labels[k]`` right for ``rows[k]``?"""
        pairs = rows * self._nodes + labels
        place = np.minimum(np.searchsorted(self._pairs, pairs), len(self._pairs) - 1)
        return self._pairs[place] == pairs

    def among(self, row: int, candidates: np.ndarray) -> np.ndarray:
        """The candidates that are wrong for ``row``, in their order."""
        return candidates[~self.contain(np.full(len(candidates), row), candidates.astype(np.int64))]


def _uniform(
    space: LabelSpace, right: _RightLabels, labels: np.ndarray, rows: np.ndarray, hashes: np.ndarray, seed: int
) -> np.ndarray:
    """A wrong leaf for each label by drawing until it is wrong, which keeps wrong leaves equally likely."""
    chosen = labels.copy()
    open_ = np.arange(len(labels))
    for attempt in range(_TRIES):
        bits = mix64(hashes[open_], labels[open_], seed, _CHOICE + attempt)
        drawn = space.leaves[(unit_interval(bits) * len(space.leaves)).astype(np.int64)].astype(np.int64)
        is_right = right.contain(rows[open_], drawn)
        chosen[open_[~is_right]] = drawn[~is_right]
        open_ = open_[is_right]
        if not open_.size:
            return chosen
    for k in open_:  # rows that hold nearly all leaves
        chosen[k] = _pick(right.among(rows[k], space.leaves), labels[k], hashes[k], seed)
    return chosen


def _sibling(
    space: LabelSpace, right: _RightLabels, labels: np.ndarray, rows: np.ndarray, hashes: np.ndarray, seed: int
) -> np.ndarray:
    """A wrong sibling for each label, or a wrong leaf where there is none."""
    siblings = {label: space.siblings(label) for label in np.unique(labels).tolist()}
    chosen = labels.copy()
    lonely = []
    for k, label in enumerate(labels.tolist()):
        candidates = right.among(rows[k], siblings[label])
        if candidates.size:
            chosen[k] = _pick(candidates, label, hashes[k], seed)
        else:
            lonely.append(k)
    if lonely:
        chosen[lonely] = _uniform(space, right, labels[lonely], rows[lonely], hashes[lonely], seed)
    return chosen


def _pick(candidates: np.ndarray, label: int, key_hash: np.uint64, seed: int) -> int:
    """One of the candidates, equally likely; ``label`` itself when there are none."""
    if not candidates.size:
        return int(label)
    bits = mix64(np.asarray(key_hash), int(label), seed, _CHOICE + _TRIES)
    return int(candidates[int(unit_interval(bits) * len(candidates))])
