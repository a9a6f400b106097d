"""Average precision and precision at 1 against slow references and values made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scaleprior.pretrain import average_precision
from scaleprior.pretrain.evaluation.average_precision import Pairs, average_precisions
from scaleprior.pretrain.evaluation.held_out import Truth, figures_of, label_metrics
from scaleprior.pretrain.metrics import LabelMetrics
from scaleprior.training.processes import ProcessGroup


def slow_average_precision(scores: np.ndarray, present: np.ndarray) -> float:
    """Mean over positives of the precision among all images that score at least as high."""
    precisions = [present[scores >= s].mean() for s, p in zip(scores, present) if p]
    return float(np.mean(precisions))


def test_hand_derived() -> None:
    # ranks of the positives: 1, 3, 4 -> (1/1 + 2/3 + 3/4) / 3
    scores, present = np.array([0.9, 0.8, 0.7, 0.6, 0.1]), np.array([1, 0, 1, 1, 0], dtype=bool)
    assert average_precision(scores, present) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    # all tied: every order is the same, precision = prevalence
    assert average_precision(np.zeros(4), np.array([True, False, False, False])) == 0.25


def test_equals_the_slow_reference_with_ties() -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 50):
        for _ in range(20):
            scores = rng.integers(0, 6, n).astype(float)
            present = rng.random(n) < 0.4
            present[rng.integers(n)] = True
            assert average_precision(scores, present) == pytest.approx(slow_average_precision(scores, present))


def test_label_metrics_leave_out_what_cannot_be_judged() -> None:
    # label 0 is the root (always present), 1 and 2 are leaves, 3 never occurs; image 2 has no leaf
    scores = np.array([[9, 2, 1, 0], [9, 3, 4, 0], [9, 0, 0, 8]], dtype=float)
    labels, offsets = np.array([0, 1, 0, 1, 0]), np.array([0, 2, 4, 5])
    figures = label_metrics(scores, labels, offsets, leaves=np.array([1, 2, 3]))
    # label 1: scores 2, 3, 0 with present 1, 1, 0 -> AP 1; best leaf of image 0 is 1 (right), of image 1 is 2 (wrong)
    assert figures == LabelMetrics(images=3, map_labels=1, map=1.0, precision_at_1=0.5)


def test_nothing_to_judge_gives_no_figure() -> None:
    figures = label_metrics(np.zeros((1, 2)), np.array([], dtype=int), np.array([0, 0]), leaves=np.array([0, 1]))
    assert figures == LabelMetrics(images=1, map_labels=0, map=None, precision_at_1=None)


def test_unknown_labels_are_left_out_where_absent_ones_are_recorded() -> None:
    # label 0: present in image 0, absent in 1, unknown in 2, whose score would come between them
    scores = np.array([[3, 1, 0], [1, 2, 0], [2, 9, 0]], dtype=float)
    labels, offsets = np.array([0, 1]), np.array([0, 1, 1, 2])
    absent = np.array([0, 1]), np.array([0, 0, 2, 2])
    figures = label_metrics(scores, labels, offsets, leaves=np.array([0, 1, 2]), absent=absent)
    # label 1: present in image 2, absent in 1; label 2: never known. Leaves of both kinds: no image has them
    assert figures == LabelMetrics(images=3, map_labels=2, map=1.0, known=4 / 9)
    # as absent, the unlisted label 0 of image 2 still ranks below image 0; label 1: ranks 9, 2, 1, first is present
    plain = label_metrics(scores, labels, offsets, leaves=np.array([0, 1, 2]))
    assert plain == LabelMetrics(images=3, map_labels=2, map=1.0, precision_at_1=1.0)


def test_known_figures_equal_a_loop_over_the_known_pairs() -> None:
    rng = np.random.default_rng(1)
    images, classes = 40, 6
    scores, state = rng.normal(size=(images, classes)), rng.choice(["present", "absent", "unknown"], (images, classes))

    def csr(what: str) -> tuple[np.ndarray, np.ndarray]:
        found = state == what
        return np.nonzero(found)[1], np.concatenate(([0], np.cumsum(found.sum(axis=1))))

    figures = label_metrics(scores, *csr("present"), leaves=np.arange(classes), absent=csr("absent"))
    precisions = []
    for c in range(classes):
        rows = [n for n in range(images) if state[n, c] != "unknown"]
        precisions.append(slow_average_precision(scores[rows, c], state[rows, c] == "present"))
    first = []
    for n in range(images):
        known = [c for c in range(classes) if state[n, c] != "unknown"]
        if {state[n, c] for c in known} == {"present", "absent"}:
            first.append(state[n, max(known, key=lambda c: scores[n, c])] == "present")
    assert figures.map == pytest.approx(np.mean(precisions))
    assert figures.precision_at_1 == pytest.approx(np.mean(first))
    assert figures.known == (state != "unknown").mean()


@pytest.mark.parametrize("cells", [1, 60, 10**6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_labels_at_once_equal_one_by_one(cells: int, dtype: type) -> None:
    """With ties, infinities, labels of all counts, known pairs or all; a line at a time, a few, all together."""
    rng = np.random.default_rng(3)
    images, classes = 30, 40
    scores = rng.integers(-9, 9, (images, classes)).astype(dtype)
    scores[:, :20] += rng.normal(size=(images, 20)).astype(dtype)
    scores[rng.random(scores.shape) < 0.05] = np.inf
    scores[rng.random(scores.shape) < 0.05] = -np.inf
    present = rng.random((images, classes)) < np.linspace(0, 1, classes)
    unknown = rng.random((images, classes)) < 0.4
    for known in (None, present | ~unknown):
        pairs = Pairs.of(*map(torch.from_numpy, np.nonzero(present)), images=images, classes=classes)
        asked = None
        if known is not None:
            asked = Pairs.of(*map(torch.from_numpy, np.nonzero(known)), images=images, classes=classes)
        before = scores.copy()
        found = average_precisions(torch.from_numpy(scores), pairs, known=asked, cells=cells).numpy()
        assert np.array_equal(scores, before)
        for c in range(classes):
            rows = np.arange(images) if known is None else np.flatnonzero(known[:, c])
            one = present[rows, c]
            if one.all() or not one.any():
                assert np.isnan(found[c])
            else:
                assert found[c] == pytest.approx(average_precision(scores[rows, c], one), abs=1e-12)


def test_a_pair_that_is_listed_twice_counts_once_and_an_odd_score_is_the_lowest() -> None:
    rows, labels = torch.tensor([2, 0, 2, 2]), torch.tensor([0, 0, 0, 0])
    pairs = Pairs.of(rows, labels, images=4, classes=1)
    assert pairs.counts.tolist() == [2]
    # ranks of the positives: image 2 first of all, image 0, whose score is no number, last: (1 + 2/4) / 2
    scores = torch.tensor([[torch.nan], [0.0], [3.0], [1.0]])
    assert average_precisions(scores, pairs).tolist() == [0.75]
    assert torch.isnan(scores[0, 0])


@pytest.mark.parametrize("cells", [1, 17, 10**6])
def test_figures_do_not_depend_on_how_many_labels_are_looked_at_together(cells: int) -> None:
    rng = np.random.default_rng(4)
    scores = rng.integers(0, 4, (20, 12)).astype(np.float32)  # the best leaf is often one of several
    present, absent = rng.random((20, 12)) < 0.3, rng.random((20, 12)) < 0.5
    absent &= ~present
    csr = [(np.nonzero(m)[1], np.concatenate(([0], np.cumsum(m.sum(axis=1))))) for m in (present, absent)]
    leaves = np.arange(3, 12)
    alone = ProcessGroup(0, 1, torch.device("cpu"))
    table = torch.from_numpy(scores)
    for known in (None, csr[1]):
        whole = label_metrics(scores, *csr[0], leaves, absent=known)
        truth = Truth.of_csr(*csr[0], known, classes=12)
        chunked = figures_of(lambda c: table[:, c], truth, torch.from_numpy(leaves), alone, cells=cells)
        assert chunked == whole
        best = np.where(present | absent, scores, -np.inf)[:, 3:] if known else scores[:, 3:]
        telling = present[:, 3:].any(axis=1) & ((absent[:, 3:].any(axis=1)) if known else True)
        first = present[np.arange(20), 3 + best.argmax(axis=1)]  # of equals, NumPy takes the first
        assert whole.precision_at_1 == pytest.approx(first[telling].mean())


@pytest.mark.gpu
def test_a_gpu_finds_the_same_average_precisions() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    rng = np.random.default_rng(5)
    scores = torch.from_numpy(rng.integers(0, 40, (200, 300)).astype(np.float32))
    present, known = rng.random((200, 300)) < 0.1, rng.random((200, 300)) < 0.5
    for asked in (None, present | known):
        pairs, judged = (
            None if mask is None else Pairs.of(*map(torch.from_numpy, np.nonzero(mask)), images=200, classes=300)
            for mask in (present, asked)
        )
        assert pairs is not None
        wanted = average_precisions(scores, pairs, known=judged)
        device = torch.device("cuda")
        there = None if judged is None else judged.to(device)
        found = average_precisions(scores.to(device), pairs.to(device), known=there).cpu()
        assert torch.allclose(found, wanted, rtol=0, atol=1e-12, equal_nan=True)
