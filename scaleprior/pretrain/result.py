"""The files that a finished run leaves: ``backbone.safetensors``, ``head.safetensors`` and, last, ``result.json``."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scaleprior.backbones.card import Card
from scaleprior.backbones.trunks.model import same_eps
from scaleprior.backbones.weights import load_canonical, save_backbone
from scaleprior.corpus import Corpus
from scaleprior.errors import UserError
from scaleprior.files import write_json
from scaleprior.parsing import read_json
from scaleprior.pretrain.card import made_card
from scaleprior.pretrain.evaluation.measures import Measures
from scaleprior.pretrain.figures.recorder import Recorder
from scaleprior.pretrain.loop.building import build_model
from scaleprior.pretrain.loop.calculating import calculating
from scaleprior.pretrain.loop.trainer import PretrainTrainer
from scaleprior.pretrain.metrics import LabelMetrics, Measured, PretrainMetrics
from scaleprior.pretrain.network.head import LinearHead
from scaleprior.pretrain.plan import planned_card
from scaleprior.training.checkpoint import load_checkpoint, save_checkpoint
from scaleprior.training.crews import TRAINED_BY
from scaleprior.training.device import resolve_device
from scaleprior.training.metrics_file import write_errors
from scaleprior.training.processes import ProcessGroup
from scaleprior.training.run_folder import RUN_FILE, RunFolder
from scaleprior.wording import parameter

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from scaleprior.config.load import LoadedConfig

__all__ = ["SCHEMA", "PretrainResult", "evaluate_pretrained", "finished_result", "result_in", "write_result"]

logger = logging.getLogger(__name__)

BACKBONE, HEAD, RESULT = "backbone.safetensors", "head.safetensors", "result.json"
SCHEMA = 2
"""Of run.json; with 1 the result was called metrics.json, as Detectron2 calls its JSON lines."""


@dataclass(frozen=True)
class PretrainResult:
    """What a run left.

    Attributes:
        backbone: path of the weights.
        metrics: content of ``result.json``.
    """

    backbone: Path
    metrics: PretrainMetrics

    @property
    def seconds(self) -> float:
        """Of training, over all resumes."""
        return self.metrics.seconds

    @property
    def images_seen(self) -> int:
        """Images trained on, once for every time."""
        return self.metrics.images_seen


def finished_result(folder: RunFolder, *, resume: bool) -> PretrainResult | None:
    """Check that the folder is free, or holds this very run; its result if that is finished."""
    out = folder.out
    if not resume and (out / RUN_FILE).exists():
        raise UserError(
            f"{out} already holds a pretraining run",
            hint=f"add {parameter('resume', True)}, or choose another {parameter('out')}",
        )
    if (out / BACKBONE).exists():
        folder.read()  # once it is finished and has no checkpoint, nothing else says whose it is
    before = folder.found()
    if before is None:
        return None
    result = RESULT if before.get("schema") == SCHEMA else "metrics.json"
    if (out / result).exists() and (out / BACKBONE).exists():
        logger.info("%s is finished", out)
        return result_in(out, result)
    return None


def result_in(out: Path, name: str = RESULT) -> PretrainResult:
    """What the finished run in ``out`` left.

    Raises:
        UserError: its result is damaged.
    """
    metrics = read_json(out / name, what="result of a run")
    return PretrainResult(out / BACKBONE, PretrainMetrics.from_dict(metrics, where=str(out / name)))


def write_result(
    cfg: CfgNode,
    trainer: PretrainTrainer,
    head: LinearHead,
    measured: Measured,
    parent: Card | None,
    recorder: Recorder,
) -> PretrainResult:
    """Write the final files, ``result.json`` last; then the checkpoints have served."""
    out, counters, images = trainer.folder.out, trainer.counters, trainer.dataset.images
    metrics = PretrainMetrics(
        loss=counters.loss,
        steps=counters.step,
        images_seen=counters.images_seen,
        epochs=counters.images_seen / len(images),
        unreadable=counters.unreadable,
        seconds=counters.seconds,
        images_per_s=counters.images_seen / max(counters.seconds, 1e-9),
        held_out=measured.held_out,
        probe=measured.probe,
        waited=min(counters.waited / max(counters.seconds, 1e-9), 1.0),
        slowest_rank=int(np.argmax(counters.waits)) if len(counters.waits) > 1 else None,
    )
    labels = images.label_space
    of_labels = {"label_space": labels.fingerprint, "head": head.state_dict()}
    crews = trainer.folder.identity.get(TRAINED_BY)
    card = made_card(cfg, trainer.dataset, counters, parent, trained_by=crews)
    trunk = trainer.model.trunk.canonical_state()
    room = trainer.checkpoints.making_room
    room(lambda: save_checkpoint(out / HEAD, of_labels))
    room(lambda: save_backbone(out / BACKBONE, trunk, card))
    with trainer.checkpoints.way_on(), write_errors(out):
        recorder.finish(metrics)
    room(recorder.flush)
    room(lambda: write_json(out / RESULT, metrics.to_dict()))
    trainer.checkpoints.remove()
    return PretrainResult(out / BACKBONE, metrics)


def evaluate_pretrained(loaded: LoadedConfig, out: str | Path) -> LabelMetrics:
    """Figures of the finished run in ``out`` on the held-out images of ``loaded.cfg``.

    Raises:
        UserError: no finished run there, its labels or trunk are not the config's, or nothing is held out.
    """
    cfg, out = loaded.cfg, Path(out)
    planned = planned_card(cfg)
    spec = planned.arch
    corpus = Corpus.open(cfg.PRETRAIN.CORPUS)
    if not cfg.PRETRAIN.HELD_OUT.IMAGES:
        raise UserError("PRETRAIN.HELD_OUT.IMAGES is 0, nothing to evaluate on", hint="set it above 0")
    state, card = load_canonical(out / BACKBONE)
    head = load_checkpoint(out / HEAD)
    if card.arch != spec or head["label_space"] != corpus.label_space.fingerprint:
        raise UserError(
            f"{out} holds {card.arch.name} trained on corpus {card.corpus['name']!r}, the config asks for {spec.name} "
            f"on labels of {corpus.name!r}",
            hint="use the config of that run",
        )
    if not same_eps(card.norm_eps, planned.norm_eps):
        raise UserError(
            f"{out} holds norms with eps {card.norm_eps:g}, the config builds {planned.norm_eps:g}",
            hint=f"use MODEL.NORM_EPS {card.norm_eps}",
        )
    with calculating(cfg):
        device = resolve_device(cfg.MODEL.DEVICE)
        measures = Measures.from_config(cfg, corpus, ProcessGroup(0, 1, device), probes=False)
        model = build_model(cfg, spec, len(corpus.label_space), bias=0.0).to(device)
        model.trunk.load(state)
        model.head.load_state_dict(head["head"])
        held_out = measures(model).held_out
    assert held_out is not None, "there are images, as was checked"
    return held_out
