"""``scaleprior.pretrain(...)``: the command's run, from Python's words."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import scaleprior as sp
from scaleprior.config import parse_overrides
from scaleprior.errors import FailureError, UserError
from scaleprior.locks import alone_in
from scaleprior.pretrain.run import run_pretraining
from tests.pretrain.conftest import SMALL, TINY

CONFIG = {"_BASE_": "Pretrain/Base-Pretrain.yaml", **dict(parse_overrides(SMALL))}


def test_the_call_is_the_run(small_config: Callable, tmp_path: Path, corpus_folder: Path) -> None:
    words = small_config("PRETRAIN.FRACTION.IMAGES", "40", "SEED", "2")
    theirs = run_pretraining(words, tmp_path / "words")
    steps: list[int] = []
    ours = sp.pretrain(
        CONFIG,
        tmp_path / "call",
        corpus=sp.Corpus.open(corpus_folder).fraction(images=40),
        overrides={"SEED": 2},
        progress=lambda done, total, numbers: steps.append(done),
    )
    assert ours.backbone.read_bytes() == theirs.backbone.read_bytes()
    assert steps == [1, 2, 3, 4]
    assert ours.images_seen == 16
    with pytest.raises(UserError, match="already holds a pretraining run; add resume=True"):
        sp.pretrain(CONFIG, tmp_path / "call", corpus=corpus_folder, images=40, overrides={"SEED": 2})
    again = sp.pretrain(CONFIG, tmp_path / "call", corpus=corpus_folder, images=40, overrides={"SEED": 2}, resume=True)
    assert again.backbone == ours.backbone
    _, card = sp.load_backbone(ours.backbone)
    assert (card.images, card.seed) == (40, 2)


def test_what_a_run_would_not_remember_is_refused(corpus_folder: Path, tmp_path: Path) -> None:
    corpus = sp.Corpus.open(corpus_folder)
    with pytest.raises(UserError, match="images is 30, corpus is a fraction of 20"):
        sp.pretrain(CONFIG, tmp_path / "run", corpus=corpus.fraction(images=20), images=30)
    with pytest.raises(UserError, match=r"were moved to .*elsewhere"):
        sp.pretrain(CONFIG, tmp_path / "run", corpus=sp.Corpus.open(corpus_folder, root=tmp_path / "elsewhere"))
    assert not (tmp_path / "run").exists()


def test_generators_of_the_program_are_left_as_they_were(corpus_folder: Path, tmp_path: Path) -> None:
    """By a run, and by one that fails; its loop, or its notebook, goes on with numbers of its own."""

    def state() -> tuple:
        name, words, *rest = np.random.get_state()  # noqa: NPY002 (the one that a run seeds)
        return random.getstate(), name, tuple(words), rest, torch.get_rng_state().tolist()

    drop = {"PRETRAIN.DROP_PATH": 0.2}  # which seeds anew in every step
    before = state()
    sp.pretrain(CONFIG, tmp_path / "run", corpus=corpus_folder, overrides=drop)
    assert state() == before
    with pytest.raises(FailureError, match="loss is nan"):
        sp.pretrain(CONFIG, tmp_path / "bad", corpus=corpus_folder, overrides={"PRETRAIN.OPTIMIZER.BASE_LR": 1e30})
    assert state() == before


def test_two_runs_do_not_share_a_folder(small_config: Callable, tmp_path: Path) -> None:
    run, refused = tmp_path / "run", []

    def another(done: int, total: int, numbers: object) -> None:
        with pytest.raises(UserError, match="another run is at work in") as error:
            run_pretraining(small_config(*TINY), run, resume=True)
        refused.append(error.value)

    run_pretraining(small_config(*TINY), run, progress=another)
    assert len(refused) == 4
    with alone_in(run):  # which is done: who asks for it disturbs nobody
        assert run_pretraining(small_config(*TINY), run, resume=True).images_seen == 16
