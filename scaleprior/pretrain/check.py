"""Everything that would stop a pretraining run, found before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from scaleprior.checking import CheckReport
from scaleprior.config import LoadedConfig
from scaleprior.corpus import Corpus
from scaleprior.corpus.check import check_corpus
from scaleprior.pretrain.batches import held_out_rows
from scaleprior.pretrain.model import Pretrainer
from scaleprior.pretrain.plan import check_pretraining
from scaleprior.pretrain.recipe import training_images
from scaleprior.progress import ProgressFn
from scaleprior.training.resources import check_disk, check_memory, map_bytes, parameter_bytes, training_bytes

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from scaleprior.backbones.trunks.family import TrunkSpec

__all__ = ["check_pretraining_run"]

_SLOTS = {"sgd": 1, "rmsprop": 2, "adamw": 2, "lamb": 2}
"""Numbers that each optimiser keeps for a parameter."""
_MAPS = ("res2", "res3", "res4")  # kept for the backward pass, because the next stage begins with a convolution of them


def check_pretraining_run(
    loaded: LoadedConfig, out: str | Path, *, processes: int = 1, progress: ProgressFn | None = None
) -> CheckReport:
    """Look at all that ``pretrain`` would meet; nothing is written.

    Looked at are the config with the backbone to go on from, the corpus and the held-out one with their files, the
    space on the disk and the memory.

    Args:
        out: folder of the run.
        processes: that share out a batch.
        progress: called with (files done, files in all, {}) for each corpus.
    """
    report = CheckReport()
    cfg = loaded.cfg
    with report.collecting("config"):
        spec = check_pretraining(cfg).arch
        with report.collecting("corpus"):
            corpus = Corpus.open(cfg.PRETRAIN.CORPUS)
            images = training_images(cfg, len(corpus))
            report.take(check_corpus(corpus.fraction(images=images), progress=progress))
            _check_room(report, cfg, spec, len(corpus.label_space), out, processes)
            held_out = held_out_rows(cfg, corpus)
            if held_out is not None:
                rows, start = held_out
                report.take(check_corpus(rows, start=start, name="held out", progress=progress))
    return report


def _check_room(
    report: CheckReport, cfg: CfgNode, spec: TrunkSpec, labels: int, out: str | Path, processes: int
) -> None:
    node = cfg.PRETRAIN
    model = _model(spec, labels)
    weights, slots = parameter_bytes(model), _SLOTS.get(node.OPTIMIZER.NAME, 1)
    # a checkpoint is written beside the one before it; at the end the backbone and the head are, too
    check_disk(report, out, least=weights, most=2 * weights * (1 + slots) + weights)
    images, side = max(node.BATCH_SIZE // processes, 1), node.INPUT.SIZE
    batch = images * map_bytes(spec, side * side, _MAPS, half=node.AMP == "bf16")
    of = f"parameters, gradients, the optimiser and the maps of {images} images of {side}x{side} pixels"
    check_memory(report, cfg.MODEL.DEVICE, training_bytes(model, slots=slots) + batch, of=of)


def _model(spec: TrunkSpec, labels: int) -> Pretrainer:
    with torch.device("meta"):
        return Pretrainer(spec, labels, pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3, bias=0.0)
