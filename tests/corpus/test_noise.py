"""Label noise: exact rates, never a right label, independent of the fraction's size."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from scaleprior.corpus.hashing import hash64
from scaleprior.corpus.label_space import LabelSpace
from scaleprior.corpus.noise import corrupt_labels
from scaleprior.errors import UserError

# two families of five leaves, and a leaf alone under its own parent
SPACE = LabelSpace(
    [("x", "x", []), ("y", "y", []), ("lone", "lone", [])]
    + [(f"{family}{k}", "", [family]) for family in "xy" for k in range(5)]
    + [("only", "", ["lone"])]
)
N = 20_000


@pytest.fixture(scope="module")
def corpus() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """N images with one or two leaves each, and their hashes."""
    rng = np.random.default_rng(0)
    rows = [np.sort(rng.choice(SPACE.leaves, 1 + k % 2, replace=False)) for k in range(N)]
    offsets = np.cumsum([0] + [len(row) for row in rows]).astype(np.int64)
    return np.concatenate(rows), offsets, hash64(f"{k}.jpg" for k in range(N))


def rows_of(labels: np.ndarray, offsets: np.ndarray) -> list[list[int]]:
    return [labels[s:e].tolist() for s, e in itertools.pairwise(offsets)]


def within(successes: int, trials: int, probability: float) -> bool:
    """Within five binomial standard deviations: one honest failure in 1.7 million."""
    return abs(successes - trials * probability) <= 5 * (trials * probability * (1 - probability)) ** 0.5


@pytest.mark.parametrize("kind", ["uniform", "sibling"])
def test_rate_and_wrongness(corpus, kind):
    labels, offsets, hashes = corpus
    noisy, new = corrupt_labels(labels, offsets, hashes, SPACE, rate=0.2, kind=kind, seed=1)
    before, after = rows_of(labels, offsets), rows_of(noisy, new)
    assert within(sum(len(set(b) - set(a)) for b, a in zip(before, after)), len(labels), 0.2)
    for b, a in zip(before, after):
        assert a == sorted(set(a))
        assert 1 <= len(a) <= len(b)
    leaves = set(SPACE.leaves.tolist())
    assert all(set(a) <= leaves for a in after)


def test_wrong_labels_are_no_ancestors_of_right_ones():
    """The leaf is below top and below middle, which is below top too: middle is its sibling and yet right for it."""
    nodes = [("top", "", []), ("middle", "", ["top"]), ("leaf", "", ["middle", "top"]), ("other", "", ["top"])]
    space = LabelSpace(nodes)
    labels = np.full(500, space.index("leaf"))
    hashes = hash64(map(str, range(500)))
    for kind in ("uniform", "sibling"):
        noisy, _ = corrupt_labels(labels, np.arange(501), hashes, space, rate=1.0, kind=kind)
        assert set(noisy.tolist()) == {space.index("other")}


def test_uniform_wrong_leaves_are_equally_likely(corpus):
    hashes = corpus[2]
    labels = np.full(N, SPACE.index("x0"))
    noisy, _ = corrupt_labels(labels, np.arange(N + 1), hashes, SPACE, rate=1.0)
    counts = np.bincount(noisy, minlength=len(SPACE))
    assert counts[SPACE.index("x0")] == 0
    assert all(within(counts[leaf], N, 1 / 10) for leaf in SPACE.leaves if leaf != SPACE.index("x0"))


def test_sibling_noise_stays_in_the_family(corpus):
    hashes = corpus[2]
    labels = np.full(N, SPACE.index("x0"))
    noisy, _ = corrupt_labels(labels, np.arange(N + 1), hashes, SPACE, rate=1.0, kind="sibling")
    counts = np.bincount(noisy, minlength=len(SPACE))
    assert counts[[SPACE.index(f"x{k}") for k in range(1, 5)]].sum() == N
    assert all(within(counts[SPACE.index(f"x{k}")], N, 1 / 4) for k in range(1, 5))


def test_label_without_siblings_falls_back_to_any_leaf(corpus):
    hashes = corpus[2][:200]
    labels = np.full(200, SPACE.index("only"))
    noisy, _ = corrupt_labels(labels, np.arange(201), hashes, SPACE, rate=1.0, kind="sibling")
    assert SPACE.index("only") not in noisy
    assert len(set(noisy.tolist())) == 10


def test_noise_belongs_to_the_image_not_to_its_place(corpus):
    labels, offsets, hashes = corpus
    options = {"rate": 0.3, "drop": 0.1, "seed": 3}
    whole = rows_of(*corrupt_labels(labels, offsets, hashes, SPACE, **options))
    part = rows_of(*corrupt_labels(labels[: offsets[500]], offsets[:501], hashes[:500], SPACE, **options))
    assert part == whole[:500]
    order = np.random.default_rng(1).permutation(500)
    rows = rows_of(labels, offsets)
    shuffled = np.concatenate([rows[k] for k in order])
    moved = np.cumsum([0] + [len(rows[k]) for k in order])
    again = rows_of(*corrupt_labels(shuffled, moved, hashes[order], SPACE, **options))
    assert again == [whole[k] for k in order]


def test_seed_changes_the_noise_and_zero_rate_does_not_touch(corpus):
    labels, offsets, hashes = corpus
    first = corrupt_labels(labels, offsets, hashes, SPACE, rate=0.5, seed=1)[0]
    second = corrupt_labels(labels, offsets, hashes, SPACE, rate=0.5, seed=2)[0]
    assert first.tolist() != second.tolist()
    same, new = corrupt_labels(labels, offsets, hashes, SPACE, rate=0.0)
    assert same.tolist() == labels.tolist()
    assert new.tolist() == offsets.tolist()


def test_drop_rate(corpus):
    labels, offsets, hashes = corpus
    kept, new = corrupt_labels(labels, offsets, hashes, SPACE, rate=0.0, drop=0.3)
    assert within(len(labels) - len(kept), len(labels), 0.3)
    assert len(new) == len(offsets)
    assert corrupt_labels(labels, offsets, hashes, SPACE, rate=0.0, drop=1.0)[0].size == 0


def test_drop_and_wrong_are_independent(corpus):
    hashes = corpus[2]
    labels = np.full(N, SPACE.index("x0"))
    noisy, _ = corrupt_labels(labels, np.arange(N + 1), hashes, SPACE, rate=0.4, drop=0.25)
    assert within(int((noisy == labels[0]).sum()), N, 0.6 * 0.75)


def test_image_with_every_leaf_keeps_its_labels():
    labels = SPACE.leaves.copy()
    offsets = np.array([0, len(labels)])
    noisy, _ = corrupt_labels(labels, offsets, hash64(["k"]), SPACE, rate=1.0)
    assert noisy.tolist() == labels.tolist()


def test_no_images():
    labels, offsets = corrupt_labels(np.array([], dtype=np.int32), np.array([0]), hash64([]), SPACE, rate=0.5)
    assert labels.size == 0
    assert offsets.tolist() == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 1.2}, "rate 1.2"),
        ({"rate": float("nan")}, "rate nan"),
        ({"rate": 0.1, "drop": -1}, "drop -1"),
        ({"rate": 0.1, "kind": "cousin"}, "kind 'cousin'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        corrupt_labels(np.array([5]), np.array([0, 1]), hash64(["k"]), SPACE, **options)


def test_shapes_must_fit():
    with pytest.raises(UserError, match="1 labels, 2 offsets and 2 hashes do not fit"):
        corrupt_labels(np.array([5]), np.array([0, 1]), hash64(["k", "l"]), SPACE, rate=0.1)
