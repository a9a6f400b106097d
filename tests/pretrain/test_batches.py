"""The labels of images, and batches that depend on nothing but the step."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from scaleprior.corpus import Corpus
from scaleprior.errors import UserError
from scaleprior.pretrain.data.augment import CropAugmentation
from scaleprior.pretrain.data.batches import TrainBatches, batches, held_out_set, training_set
from scaleprior.training.positions import BatchPlan
from tests.conftest import REPO
from tests.corpus.images.files import TURNS, exif, insert, noise, pillow, save
from tests.pretrain.conftest import index_verified


def test_labels_of_equals_a_loop_and_adds_ancestors(small_config: Callable, corpus_folder: Path) -> None:
    corpus = Corpus.open(corpus_folder)
    images = training_set(small_config("PRETRAIN.FRACTION.IMAGES", "20").cfg, corpus)
    rows = np.array([7, 0, 7, 19])
    labels, offsets = images.labels_of(rows)
    raw, raw_offsets = corpus.fraction(images=20).labels()
    for i, row in enumerate(rows):
        direct = raw[raw_offsets[row] : raw_offsets[row + 1]]
        expected = {int(x) for d in direct for x in (d, *corpus.label_space.ancestors(int(d)))}
        assert labels[offsets[i] : offsets[i + 1]].tolist() == sorted(expected)
        assert len(expected) == 2  # a leaf and its parent
    flat = training_set(small_config("PRETRAIN.EXPAND_LABELS", "False").cfg, corpus)
    assert flat.labels_of(rows)[1].tolist() == [0, 1, 2, 3, 4]


def test_noise_belongs_to_the_image_not_to_the_fraction(small_config: Callable, corpus_folder: Path) -> None:
    corpus = Corpus.open(corpus_folder)

    def labels(images: int, **noise: str) -> np.ndarray:
        opts = [word for key, value in noise.items() for word in (f"PRETRAIN.NOISE.{key}", value)]
        cfg = small_config("PRETRAIN.FRACTION.IMAGES", str(images), *opts).cfg
        return training_set(cfg, corpus).labels_of(np.arange(20))[0]

    clean, noisy = labels(20), labels(20, RATE="0.5")
    assert not np.array_equal(noisy, clean)
    assert np.array_equal(labels(60, RATE="0.5"), noisy)
    assert not np.array_equal(labels(20, RATE="0.5", SEED="1"), noisy)
    assert len(labels(20, DROP="1.0")) == 0


def test_held_out_is_the_tail_and_never_overlaps(small_config: Callable, corpus_folder: Path) -> None:
    corpus = Corpus.open(corpus_folder)
    tail = ("PRETRAIN.HELD_OUT.IMAGES", "12")
    cfg = small_config(*tail).cfg
    train, held_out = training_set(cfg, corpus), held_out_set(cfg, corpus)
    keys = corpus.fraction(images=60).keys()
    assert len(train) == 48
    assert [held_out.key(i) for i in range(len(held_out))] == keys[48:]
    rows = np.arange(12)
    everything = training_set(small_config().cfg, corpus)
    assert np.array_equal(held_out.labels_of(rows)[0], everything.labels_of(rows + 48)[0])
    assert np.array_equal(held_out.decode(3, "RGB"), everything.decode(51, "RGB"))
    with pytest.raises(UserError, match=r"50 images to train on and the last 12 to evaluate on overlap"):
        training_set(small_config(*tail, "PRETRAIN.FRACTION.IMAGES", "50").cfg, corpus)
    with pytest.raises(UserError, match=r"IMAGES 5 and RATIO 0.5; set one"):
        training_set(small_config("PRETRAIN.FRACTION.IMAGES", "5", "PRETRAIN.FRACTION.RATIO", "0.5").cfg, corpus)
    with pytest.raises(UserError, match=r"FRACTION asks for 61 images, besides 0 held out, of a corpus of 60"):
        training_set(small_config("PRETRAIN.FRACTION.IMAGES", "61").cfg, corpus)
    with pytest.raises(UserError, match=r"HELD_OUT.IMAGES is 60, of a corpus of 60; make it smaller"):
        training_set(small_config("PRETRAIN.HELD_OUT.IMAGES", "60").cfg, corpus)
    assert len(training_set(small_config("PRETRAIN.FRACTION.RATIO", "0.5").cfg, corpus)) == 30


def make(small_config: Callable, corpus_folder: Path, **options: int) -> TrainBatches:
    cfg = small_config("PRETRAIN.NOISE.RATE", "0.3").cfg
    images = training_set(cfg, Corpus.open(corpus_folder))
    return TrainBatches(images, BatchPlan(60, 8, seed=5), CropAugmentation.from_config(cfg), order="RGB", **options)


def test_workers_cache_and_resume_change_nothing(small_config: Callable, corpus_folder: Path) -> None:
    plain = list(batches(make(small_config, corpus_folder), 0, 10, workers=0))
    variants = [
        list(batches(make(small_config, corpus_folder), 4, 10, workers=2)),
        list(batches(make(small_config, corpus_folder, cache_bytes=2**20), 0, 10, workers=0))[4:],
        list(batches(make(small_config, corpus_folder, cache_bytes=5000), 4, 10, workers=0)),
    ]
    for variant in variants:
        for a, b in zip(plain[4:], variant):
            assert all(torch.equal(getattr(a, f), getattr(b, f)) for f in ("images", "rows"))
            assert all(torch.equal(getattr(a.targets, f), getattr(b.targets, f)) for f in ("rows", "labels"))
    assert plain[0].images.shape == (8, 16, 16, 3)
    assert plain[0].images.dtype == torch.uint8
    assert not torch.equal(plain[0].images, plain[1].images)


AFTER_OPENCV = """
import os, sys, time
import cv2, numpy as np
from scaleprior.config import load_config
from scaleprior.corpus import Corpus
from scaleprior.pretrain.data.augment import CropAugmentation
from scaleprior.pretrain.data.batches import TrainBatches, batches, training_set
from scaleprior.training.positions import BatchPlan

if __name__ == "__main__":
    cfg = load_config(sys.argv[1]).cfg
    cv2.setNumThreads(3)
    before = len(os.listdir("/proc/self/task"))
    cv2.cvtColor(np.zeros((2000, 2000, 3), dtype=np.uint8), cv2.COLOR_BGR2LAB)
    started = len(os.listdir("/proc/self/task")) - before
    time.sleep(1)  # the threads of OpenCV's pool spin for a while before they sleep
    images = training_set(cfg, Corpus.open(cfg.PRETRAIN.CORPUS))
    dataset = TrainBatches(images, BatchPlan(60, 8, seed=5), CropAugmentation.from_config(cfg), order="RGB")
    print(started, sum(len(batch.rows) for batch in batches(dataset, 0, 3, workers=2)), cv2.getNumThreads())
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux does")
def test_workers_start_in_a_process_that_has_used_opencvs_threads(small_config: Callable, tmp_path: Path) -> None:
    """The workers are forked. OpenCV's pool must not be there then: they would wait for its threads for ever."""
    (tmp_path / "config.yaml").write_text(small_config().cfg.dump())
    command = [sys.executable, "-c", AFTER_OPENCV, "config.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment, timeout=300
    )
    assert done.stdout.split() == ["2", "24", "3"], done.stderr


def test_unreadable_images_are_left_out_and_reported(
    small_config: Callable, corpus_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = make(small_config, corpus_folder)
    good = dataset[0]
    bad = int(good.rows[2])
    read = type(dataset.images.fraction).read
    monkeypatch.setattr(type(dataset.images.fraction), "read", lambda f, i: b"junk" if i == bad else read(f, i))
    batch = dataset[0]
    assert batch.rows.tolist() == [r for r in good.rows.tolist() if r != bad]
    assert torch.equal(batch.images, good.images[[0, 1, 3, 4, 5, 6, 7]])
    assert [row for row, _ in batch.unreadable] == [bad]
    monkeypatch.setattr(type(dataset.images.fraction), "read", lambda f, i: b"junk")
    batch = dataset[0]  # nothing is left: what to do about it is for all processes to decide
    assert (len(batch.images), batch.rows.tolist(), batch.targets.images) == (0, [], 0)
    assert [row for row, _ in batch.unreadable] == good.rows.tolist()


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus.open(index_verified(tmp_path_factory.mktemp("verified")))


IGNORE = ("PRETRAIN.LOSS.UNLABELLED", "ignore")


def test_unlabelled_is_negative_unless_it_is_to_be_ignored(small_config: Callable, verified: Corpus) -> None:
    rows = np.array([5, 0])
    assert training_set(small_config().cfg, verified).absent_of(rows) is None
    labels, offsets = training_set(small_config(*IGNORE).cfg, verified).labels_of(rows)
    absent, absent_offsets = training_set(small_config(*IGNORE).cfg, verified).absent_of(rows)
    for k in range(2):
        leaf = labels[offsets[k] : offsets[k + 1]].max()
        # the other parent and, below it, all three of its leaves
        assert absent[absent_offsets[k] : absent_offsets[k + 1]].tolist() == (
            [1, 5, 6, 7] if leaf < 5 else [0, 2, 3, 4]
        )
    flat = training_set(small_config(*IGNORE, "PRETRAIN.EXPAND_LABELS", "False").cfg, verified)
    assert flat.absent_of(rows)[1].tolist() == [0, 1, 2]


def test_ignoring_needs_labels_that_are_absent(small_config: Callable, corpus_folder: Path) -> None:
    with pytest.raises(
        UserError, match=r"LOSS.UNLABELLED is 'ignore', and none of the 60 images .* nothing would be a neg"
    ):
        training_set(small_config(*IGNORE).cfg, Corpus.open(corpus_folder))


def test_noise_contradicts_absences_and_drops_none(small_config: Callable, verified: Corpus) -> None:
    rows = np.arange(60)
    clean = training_set(small_config(*IGNORE).cfg, verified)
    dropped = training_set(small_config(*IGNORE, "PRETRAIN.NOISE.DROP", "1.0").cfg, verified)
    assert len(dropped.labels_of(rows)[0]) == 0
    assert np.array_equal(dropped.absent_of(rows)[0], clean.absent_of(rows)[0])
    noisy = training_set(small_config(*IGNORE, "PRETRAIN.NOISE.RATE", "1.0").cfg, verified)
    (labels, offsets), (absent, absent_offsets) = noisy.labels_of(rows), noisy.absent_of(rows)
    crossed = 0
    for n in rows:
        present = set(labels[offsets[n] : offsets[n + 1]].tolist())
        missing = set(absent[absent_offsets[n] : absent_offsets[n + 1]].tolist())
        assert not present & missing
        crossed += not missing
    assert 0 < crossed < 60  # a wrong label of the other parent leaves nothing absent


def test_held_out_images_know_what_is_absent(small_config: Callable, verified: Corpus, corpus_folder: Path) -> None:
    cfg = small_config("PRETRAIN.HELD_OUT.IMAGES", "12").cfg
    held_out = held_out_set(cfg, verified)
    whole = training_set(small_config(*IGNORE).cfg, verified)
    rows = np.arange(12)
    assert np.array_equal(held_out.absent_of(rows)[0], whole.absent_of(rows + 48)[0])
    assert held_out_set(cfg, Corpus.open(corpus_folder)).absent_of(rows) is None


def test_batches_carry_what_is_absent(small_config: Callable, verified: Corpus) -> None:
    cfg = small_config(*IGNORE).cfg
    images = training_set(cfg, verified)
    dataset = TrainBatches(images, BatchPlan(60, 8, seed=5), CropAugmentation.from_config(cfg), order="RGB")
    batch = dataset[3]
    absent, offsets = images.absent_of(batch.rows.numpy())
    assert batch.targets.absent[1].tolist() == absent.tolist()
    assert torch.bincount(batch.targets.absent[0], minlength=8).tolist() == np.diff(offsets).tolist()


def test_photographs_are_upright_and_strictness_is_a_key(small_config: Callable, tmp_path: Path) -> None:
    plain = save(noise(), "JPEG", exif=exif(6))
    (tmp_path / "src" / "a").mkdir(parents=True)
    (tmp_path / "src" / "a" / "0.jpg").write_bytes(insert(plain, len(plain) - 2, bytes(40)))
    corpus = Corpus.build(tmp_path / "src", tmp_path / "i", yes=True)
    images = training_set(small_config("PRETRAIN.CORPUS", str(tmp_path / "i")).cfg, corpus)
    assert np.array_equal(images.decode(0, "RGB"), TURNS[6](pillow(plain)))
    cfg = small_config("PRETRAIN.CORPUS", str(tmp_path / "i"), "SCALEPRIOR.STRICT_IMAGES", "True").cfg
    with pytest.raises(UserError, match="extraneous bytes before marker"):
        training_set(cfg, corpus).decode(0, "RGB")
