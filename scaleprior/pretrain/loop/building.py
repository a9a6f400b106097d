"""All that trains, built as a config says."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch

from scaleprior.backbones.canonical import canonical_file
from scaleprior.backbones.card import Card
from scaleprior.backbones.trunks.family import TrunkSpec
from scaleprior.backbones.trunks.selection import config_eps
from scaleprior.backbones.weights import load_canonical
from scaleprior.config.seed import run_seed
from scaleprior.pretrain.data.augment import CropAugmentation
from scaleprior.pretrain.data.batches import ImageSet, TrainBatches
from scaleprior.pretrain.data.sizes import ImageSizes
from scaleprior.pretrain.loop.step import TrainStep
from scaleprior.pretrain.loop.trainer import PretrainTrainer
from scaleprior.pretrain.network.pretrainer import Pretrainer, prior_bias
from scaleprior.pretrain.optim.average import WeightAverage
from scaleprior.pretrain.optim.optimizers import build_optimizer
from scaleprior.pretrain.optim.schedule import Schedule, budget_steps
from scaleprior.pretrain.plan import check_device
from scaleprior.training.checkpoints import Checkpoints
from scaleprior.training.device import resolve_device
from scaleprior.training.positions import BatchPlan
from scaleprior.training.processes import ProcessGroup
from scaleprior.training.run_folder import RunFolder
from scaleprior.training.seeds import seed_everything
from scaleprior.training.sync_norms import share_statistics

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["build_model", "build_trainer", "label_density", "training_device"]

logger = logging.getLogger(__name__)


def training_device(cfg: CfgNode) -> torch.device:
    """Where this process trains; a config that cannot be trained there is refused."""
    device = resolve_device(cfg.MODEL.DEVICE)
    check_device(cfg, device.type)
    return device


def build_model(
    cfg: CfgNode, spec: TrunkSpec, labels: int, *, bias: float, processes: ProcessGroup | None = None
) -> Pretrainer:
    """The network of ``cfg``, fresh, for so many ``labels``; see ``prior_bias``.

    Args:
        processes: that a sharded head is spread over; None: it is whole.
    """
    return Pretrainer(
        spec,
        labels,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
        bias=bias,
        norm_eps=config_eps(cfg),
        channels_last=cfg.PRETRAIN.CHANNELS_LAST,
        chunk=cfg.PRETRAIN.HEAD.CHUNK,
        shards=processes if cfg.PRETRAIN.HEAD.SHARDED and processes is not None and processes.joined else None,
        smoothing=cfg.PRETRAIN.LOSS.SMOOTHING,
        drop_path=cfg.PRETRAIN.DROP_PATH,
    )


def build_trainer(
    cfg: CfgNode,
    spec: TrunkSpec,
    images: ImageSet,
    processes: ProcessGroup,
    folder: RunFolder,
    checkpoints: Checkpoints,
    parent: Card | None,
) -> PretrainTrainer:
    """All that trains, at its first step, on the device of ``processes``; seeds the process' generators."""
    node = cfg.PRETRAIN
    seed = run_seed(cfg)
    seed_everything(seed)
    labels = len(images.label_space)
    bias = prior_bias(node.HEAD.PRIOR or label_density(images, labels))
    model = build_model(cfg, spec, labels, bias=bias, processes=processes)
    if parent is not None:
        model.trunk.load(load_canonical(canonical_file(cfg.MODEL.WEIGHTS))[0])
    if node.FREEZE == "trunk":
        model.freeze_trunk()
    model.to(processes.device)
    if node.NORM_STATISTICS == "all" and processes.size > 1:
        share_statistics(model.trunk, processes.device)
    total = budget_steps(node.BUDGET.AMOUNT, node.BUDGET.UNIT, images=len(images), batch_size=node.BATCH_SIZE)
    sizes = ImageSizes.from_config(cfg, total=total) if node.INPUT.PROGRESSIVE else None
    if sizes is not None:
        logger.info("images of %s pixels: %.3g of the pixels of a run at %d", sizes, sizes.cost, sizes.size)
    cache = node.LOADER.CACHE_MB * 2**20 if not node.LOADER.NUM_WORKERS else 0
    dataset = TrainBatches(
        images,
        BatchPlan(len(images), node.BATCH_SIZE, seed, processes.rank, processes.size),
        CropAugmentation.from_config(cfg),
        order=cfg.INPUT.FORMAT,
        sizes=sizes,
        cache_bytes=cache,
    )
    logger.info("%s on %d images, %d labels, %d steps of %d", spec.name, len(images), labels, total, node.BATCH_SIZE)
    step = TrainStep(
        model,
        build_optimizer(cfg, model),
        processes,
        accumulate=node.ACCUMULATE,
        clip_norm=node.OPTIMIZER.CLIP_NORM,
        amp=node.AMP == "bf16",
        average=WeightAverage(model.learning_state(), node.EMA.DECAY) if node.EMA.DECAY else None,
        mode=node.STEP.MODE,
    )
    return PretrainTrainer(
        model=model,
        step=step,
        schedule=Schedule.from_config(cfg, total=total, images=len(images)),
        dataset=dataset,
        processes=processes,
        folder=folder,
        checkpoints=checkpoints,
        base_lr=node.OPTIMIZER.BASE_LR,
        checkpoint_period=node.CHECKPOINT_PERIOD,
        max_unreadable=node.LOADER.MAX_UNREADABLE,
        workers=node.LOADER.NUM_WORKERS,
        decode_on_device=node.LOADER.DECODE == "gpu",
        draw_seed=seed if node.DROP_PATH else None,
    )


def label_density(images: ImageSet, labels: int) -> float:
    """Mean share of the (known) labels that are present, from the first 4,096 images, kept away from 0 and 1."""
    rows = np.arange(min(len(images), 4096))
    _, offsets = images.labels_of(rows)
    absent = images.absent_of(rows)
    if absent is None:
        return float(np.clip(offsets[-1] / (len(offsets) - 1) / labels, 1e-6, 0.5))
    known = offsets[-1] + absent[1][-1]
    return float(np.clip(offsets[-1] / max(known, 1), 1e-6, 0.5))
