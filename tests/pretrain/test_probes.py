"""k-NN and linear probes against loops in NumPy and SciPy's minimiser, and in a run, which they leave as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from scaleprior.corpus import Corpus
from scaleprior.errors import UserError
from scaleprior.pretrain import average_precision, pretrain
from scaleprior.pretrain.check import check_pretraining_run
from scaleprior.pretrain.evaluation.measures import Measures, probe_rows
from scaleprior.pretrain.evaluation.probes import PENALTIES, ProbeSet, knn_scores, linear_scores, probe
from scaleprior.training.checkpoint import rng_state
from scaleprior.training.processes import ProcessGroup
from tests.pretrain.conftest import index_verified
from tests.pretrain.test_run import weights
from tests.pretrain.test_sharing import CPU, network, rows_of, share

ALONE = ProcessGroup(0, 1, CPU)
CLASSES = 4


def clusters(seed: int, images: int, *, apart: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, 6] around a centre of each class, and the classes."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, CLASSES, images)
    centres = np.random.default_rng(0).normal(size=(CLASSES, 6)) * apart
    return centres[classes] + rng.normal(size=(images, 6)), classes


def single(features: np.ndarray, classes: np.ndarray) -> ProbeSet:
    offsets = np.arange(len(classes) + 1)
    return ProbeSet.of_csr(torch.from_numpy(features), classes, offsets, classes=CLASSES, single=True)


def several(features: np.ndarray, present: np.ndarray, absent: np.ndarray | None = None) -> ProbeSet:
    def csr(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.nonzero(mask)[1], np.concatenate(([0], np.cumsum(mask.sum(axis=1))))

    known = None if absent is None else csr(absent)
    return ProbeSet.of_csr(torch.from_numpy(features), *csr(present), known, classes=present.shape[1], single=False)


def slow_votes(learned: np.ndarray, present: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Votes [M, C] by a loop over the images that are asked about."""
    found = []
    for x in asked:
        similar = learned @ x / np.linalg.norm(learned, axis=1) / np.linalg.norm(x)
        nearest = np.argsort(-similar)[:20]
        votes = np.exp(similar[nearest] / 0.07)
        found.append((votes[:, None] * present[nearest]).sum(axis=0) / votes.sum())
    return np.array(found)


def test_knn_equals_a_loop() -> None:
    (learned, classes), (asked, truth) = clusters(1, 60), clusters(2, 25)
    scores = knn_scores(single(learned, classes), single(asked, truth))
    votes = slow_votes(learned, np.eye(CLASSES)[classes], asked)
    assert scores(torch.arange(CLASSES)).numpy() == pytest.approx(votes, abs=1e-12)
    assert scores(torch.tensor([2, 0])).numpy() == pytest.approx(votes[:, [2, 0]], abs=1e-12)
    figures = probe(single(learned, classes), single(asked, truth), ("knn",), ALONE)
    assert figures.to_dict() == {
        "images": 60, "val_images": 25, "labels": 4, "knn_accuracy": float((votes.argmax(axis=1) == truth).mean())
    }  # fmt: skip
    assert 0.5 < figures.knn_accuracy < 1


def test_knn_of_fewer_than_twenty_and_of_several_labels() -> None:
    rng = np.random.default_rng(3)
    learned, asked = rng.normal(size=(7, 6)), rng.normal(size=(12, 6))
    present, truth = rng.random((7, 5)) < 0.5, rng.random((12, 5)) < 0.5
    votes = slow_votes(learned, present, asked)
    figures = probe(several(learned, present), several(asked, truth), ("knn",), ALONE)
    judged = [c for c in range(5) if 0 < truth[:, c].sum() < 12]
    expected = np.mean([average_precision(votes[:, c], truth[:, c]) for c in judged])
    assert figures.knn_map == pytest.approx(expected, abs=1e-12)
    assert (figures.knn_accuracy, figures.labels) == (None, len(judged))


def standard(learned: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, std = learned.mean(axis=0), learned.std(axis=0)
    std[std == 0] = 1
    return (learned - mean) / std, (asked - mean) / std


def scipy_softmax(x: np.ndarray, classes: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    def objective(flat: np.ndarray) -> float:
        w, b = flat[: x.shape[1] * CLASSES].reshape(x.shape[1], CLASSES), flat[x.shape[1] * CLASSES :]
        logits = x @ w + b
        losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(x)), classes]
        return losses.mean() + penalty / 2 * (w**2).sum()

    flat = minimize(objective, np.zeros((x.shape[1] + 1) * CLASSES), method="BFGS", options={"gtol": 1e-7}).x
    return flat[:-CLASSES].reshape(x.shape[1], CLASSES), flat[-CLASSES:]


def scipy_logistic(x: np.ndarray, signs: np.ndarray, penalty: float) -> np.ndarray:
    """Of one label, signs -1 (present), 1 (absent), 0 (unknown); weights with the bias last."""

    def objective(wb: np.ndarray) -> float:
        known = signs != 0
        losses = np.log1p(np.exp(signs * (x @ wb[:-1] + wb[-1])))
        return losses[known].mean() + penalty / 2 * (wb[:-1] ** 2).sum()

    return minimize(objective, np.zeros(x.shape[1] + 1), method="BFGS", options={"gtol": 1e-8}).x


def test_the_linear_probe_of_one_label_an_image_equals_scipys() -> None:
    (learned, classes), (asked, truth) = clusters(4, 50, apart=0.7), clusters(5, 20, apart=0.7)
    learned[:, 5], asked[0, 5] = 3.0, 9.0  # a feature that never differs, where it was learned
    scores, penalty = linear_scores(single(learned, classes), single(asked, truth))
    assert penalty in PENALTIES
    x, z = standard(learned, asked)
    w, b = scipy_softmax(x, classes, penalty)
    found, wanted = scores(torch.arange(CLASSES)).numpy(), z @ w + b
    # a constant in all biases changes nothing
    assert found - found.mean(axis=1, keepdims=True) == pytest.approx(
        wanted - wanted.mean(axis=1, keepdims=True), abs=1e-3
    )
    figures = probe(single(learned, classes), single(asked, truth), ("linear",), ALONE)
    assert figures.linear_accuracy == (wanted.argmax(axis=1) == truth).mean()
    assert figures.linear_l2 == penalty


@pytest.mark.parametrize("verified", [False, True])
def test_the_linear_probe_of_several_labels_equals_scipys(verified: bool) -> None:
    rng = np.random.default_rng(6)
    learned, asked, true = rng.normal(size=(60, 4)), rng.normal(size=(30, 4)), rng.normal(size=(4, 3))
    present, truth = learned @ true + rng.normal(size=(60, 3)) > 0, asked @ true + rng.normal(size=(30, 3)) > 0
    known, asked_known = rng.random((60, 3)) < 0.7, rng.random((30, 3)) < 0.7
    if not verified:
        known[:], asked_known[:] = True, True
    sets = [
        several(f.copy(), p & k, ~p & k if verified else None)
        for f, p, k in ((learned, present, known), (asked, truth, asked_known))
    ]
    scores, penalty = linear_scores(*sets)
    x, z = standard(learned, asked)
    signs = np.where(present, -1, 1) * known
    wanted = []
    for c in range(3):
        wb = scipy_logistic(x, signs[:, c], penalty)
        wanted.append(z @ wb[:-1] + wb[-1])
    assert scores(torch.arange(3)).numpy() == pytest.approx(np.stack(wanted, axis=1), abs=1e-4)
    figures = probe(*sets, ("linear", "knn"), ALONE)
    rows = [np.flatnonzero(asked_known[:, c]) for c in range(3)]
    expected = np.mean([average_precision(wanted[c][rows[c]], truth[rows[c], c]) for c in range(3)])
    assert figures.linear_map == pytest.approx(expected)
    assert figures.knn_map is not None


def test_the_penalty_is_strong_where_there_is_nothing_to_learn_and_weak_where_all_is_clear() -> None:
    noise = np.random.default_rng(7).normal(size=(60, 6))
    assert linear_scores(single(noise, clusters(8, 60)[1]), single(noise, clusters(8, 60)[1]))[1] == PENALTIES[0]
    clear, classes = clusters(9, 60, apart=20)
    assert linear_scores(single(clear, classes), single(clear, classes))[1] == PENALTIES[-1]


def test_a_label_that_was_never_learned_is_never_found() -> None:
    (learned, classes), (asked, truth) = clusters(10, 40, apart=20), clusters(11, 30, apart=20)
    rest = classes != 2
    figures = probe(single(learned[rest], classes[rest]), single(asked, truth), ("linear", "knn"), ALONE)
    assert figures.linear_accuracy == figures.knn_accuracy == (truth != 2).mean()
    assert figures.labels == 4


KEYS = ("PRETRAIN.BUDGET.AMOUNT", "4", "PRETRAIN.EVAL.PERIOD", "2", "PRETRAIN.HELD_OUT.IMAGES", "12")


def test_a_run_is_probed_and_is_left_as_it_is(small_config: Callable, corpus_folder: Path, tmp_path: Path) -> None:
    plain = pretrain(small_config(*KEYS), tmp_path / "plain")
    probed = small_config(*KEYS, "PRETRAIN.PROBE.CORPUS", str(corpus_folder))
    result = pretrain(probed, tmp_path / "probed")
    assert weights(tmp_path / "probed") == weights(tmp_path / "plain")
    assert result.metrics.held_out == plain.metrics.held_out
    found = result.metrics.probe
    assert found is not None
    assert (found.images, found.val_images, found.labels, found.unreadable) == (48, 12, 6, 0)
    assert found.linear_accuracy > 0.5  # six colours, of which even a trunk that learned nothing sees most
    lines = [json.loads(line) for line in (tmp_path / "probed" / "metrics.jsonl").read_text().splitlines()]
    measured = [line for line in lines if "loss" not in line]
    assert [line["step"] for line in measured] == [2, 4]
    assert measured[-1]["probe/linear_accuracy"] == found.linear_accuracy
    assert json.loads((tmp_path / "probed" / "result.json").read_text())["probe"] == found.to_dict()
    assert pretrain(probed, tmp_path / "probed", resume=True).metrics == result.metrics
    # figures of the same weights are the same, and nothing is drawn
    drawn = rng_state()["torch"].clone()
    few = small_config("PRETRAIN.PROBE.CORPUS", str(corpus_folder), "PRETRAIN.PROBE.IMAGES", "20").cfg
    measure = Measures.from_config(few, Corpus.open(corpus_folder), ALONE)
    model = network(8)
    assert measure(model) == measure(model)
    assert torch.equal(rng_state()["torch"], torch.get_rng_state())
    assert drawn is not None


def test_what_is_verified_absent_makes_a_set_one_of_several_labels(tmp_path: Path) -> None:
    """Images with one label each, of which some others are known to be absent: known pairs are judged."""
    images = rows_of(index_verified(tmp_path), 40)
    measured = Measures(ALONE, probe=share(images), kinds=("knn",))(network(8))
    assert measured.held_out is None
    assert measured.probe is not None
    assert measured.probe.knn_accuracy is None
    assert 0 < measured.probe.knn_map <= 1


def test_what_cannot_be_probed_is_refused(small_config: Callable, corpus_folder: Path, tmp_path: Path) -> None:
    index = ("PRETRAIN.PROBE.CORPUS", str(corpus_folder))
    for words, said in (
        (
            (*index, "PRETRAIN.PROBE.IMAGES", "9"),
            "PROBE.IMAGES is 9 and PRETRAIN.PROBE.CORPUS has 60: 9 to probe with; give at least 10: a fifth",
        ),
        (
            (*index, "PRETRAIN.PROBE.KINDS", "()"),
            "PRETRAIN.PROBE.KINDS is empty; name linear",
        ),
        (("PRETRAIN.PROBE.CORPUS", str(tmp_path / "none")), "none"),
    ):
        with pytest.raises(UserError, match=said):
            pretrain(small_config(*words), tmp_path / "run")
        assert not (tmp_path / "run").exists()
        assert check_pretraining_run(small_config(*words), tmp_path / "run").of("corpus")
    with pytest.raises(UserError, match=r"PRETRAIN.PROBE.KINDS is .*forest"):
        pretrain(small_config(*index, "PRETRAIN.PROBE.KINDS", "('forest',)"), tmp_path / "run")
    assert probe_rows(small_config().cfg) is None
