"""Everything that would stop a pretraining run, found before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from scaleprior.checking import CheckReport
from scaleprior.config import LoadedConfig
from scaleprior.config.batch import settled
from scaleprior.corpus import Corpus
from scaleprior.corpus.check import check_corpus
from scaleprior.pretrain.data.batches import held_out_rows
from scaleprior.pretrain.evaluation.measures import probe_rows
from scaleprior.pretrain.network.pretrainer import Pretrainer
from scaleprior.pretrain.plan import check_pretraining, planned_card
from scaleprior.pretrain.recipe import training_images
from scaleprior.progress import ProgressFn
from scaleprior.training.processes import ProcessGroup
from scaleprior.training.resources import (
    Needs,
    check_disk,
    check_memory,
    map_bytes,
    parameter_bytes,
    training_bytes,
)

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["check_pretraining_run", "pretraining_needs"]

_SLOTS = {"sgd": 1, "rmsprop": 2, "adamw": 2, "lamb": 2}
"""Numbers that each optimiser keeps for a parameter."""
_MAPS = ("res2", "res3", "res4")  # kept for the backward pass, because the next stage begins with a convolution of them


def check_pretraining_run(
    loaded: LoadedConfig, out: str | Path, *, processes: int = 1, progress: ProgressFn | None = None
) -> CheckReport:
    """Look at all that ``pretrain`` would meet; nothing is written.

    Looked at are the config with the backbone to go on from, the corpus, the held-out one and that of the probes with
    their files, the space on the disk and the memory.

    Args:
        out: folder of the run.
        processes: that share out a batch.
        progress: called with (files done, files in all, {}) for each corpus.
    """
    report = CheckReport()
    cfg = loaded.cfg
    with report.collecting("config"):
        check_pretraining(cfg, processes=processes)
    if not cfg.PRETRAIN.CORPUS:
        return report
    with report.collecting("corpus"):
        corpus = Corpus.open(cfg.PRETRAIN.CORPUS)
        with report.collecting("corpus"):
            images = training_images(cfg, len(corpus))
            tolerated = cfg.PRETRAIN.LOADER.MAX_UNREADABLE
            report.take(check_corpus(corpus.fraction(images=images), tolerated=tolerated, progress=progress))
        with report.collecting("corpus"):
            held_out = held_out_rows(cfg, corpus)
            if held_out is not None:
                rows, start = held_out
                report.take(check_corpus(rows, start=start, name="held out", progress=progress))
        with report.collecting("corpus"):
            probe = probe_rows(cfg)
            if probe is not None:
                report.take(check_corpus(probe, name="probe", progress=progress))
        if not report.of("config"):
            needs = pretraining_needs(cfg, len(corpus.label_space), processes=processes)
            check_disk(report, out, least=needs.left, most=needs.peak)
            check_memory(report, cfg.MODEL.DEVICE, needs.memory, of=needs.of)
    return report


def pretraining_needs(cfg: CfgNode, labels: int, *, processes: int = 1) -> Needs:
    """What pretraining takes.

    Args:
        labels: of the corpus.
        processes: that share out a batch.

    Raises:
        UserError: see ``plan.planned_card``.
    """
    cfg = settled(cfg, processes)
    node, spec = cfg.PRETRAIN, planned_card(cfg).arch
    with torch.device("meta"):
        last = ProcessGroup(processes - 1, processes, torch.device("meta"))  # no process has a larger share of a head
        model = Pretrainer(spec, labels, pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3, bias=0.0)
        one = Pretrainer(spec, labels, pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3, bias=0.0, shards=last)
    weights, slots = parameter_bytes(model), _SLOTS.get(node.OPTIMIZER.NAME, 1) + bool(node.EMA.DECAY)
    images, side = max(node.BATCH_SIZE // processes // node.ACCUMULATE, 1), node.INPUT.SIZE
    frozen = node.FREEZE == "trunk"
    batch = 0 if frozen else images * map_bytes(spec, side * side, _MAPS, half=node.AMP == "bf16")
    if frozen:
        model.freeze_trunk()
        one.freeze_trunk()
    return Needs(
        left=weights,
        # the next checkpoint beside those that are kept, and at the end head and backbone
        peak=(node.CHECKPOINTS + 1) * weights * (1 + slots) + weights,
        memory=training_bytes(one if node.HEAD.SHARDED else model, slots=slots) + batch,
        of="parameters, gradients and the optimiser"
        if frozen
        else f"parameters, gradients, the optimiser and the maps of {images} images of {side}x{side} pixels",
    )
