"""A whole pretraining run: corpus in, backbone with its card out.

The output folder holds ``config.yaml`` with ``scaleprior.yaml``, ``run.json`` (identity), the last checkpoints while
running, and what the recorder writes (``metrics.jsonl``); at the end ``backbone.safetensors``, ``head.safetensors``
and, last, ``result.json``, which marks it finished.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from scaleprior.backbones.assumed import warn_of_assumed
from scaleprior.backbones.canonical import canonical_file
from scaleprior.backbones.card import Card
from scaleprior.backbones.trunks.family import TrunkSpec
from scaleprior.backbones.trunks.model import same_eps
from scaleprior.backbones.trunks.selection import config_eps
from scaleprior.backbones.weights import load_canonical, save_backbone
from scaleprior.config.batch import log_settled, settled
from scaleprior.config.saved import write_config
from scaleprior.config.seed import run_seed
from scaleprior.corpus import Corpus
from scaleprior.errors import UserError
from scaleprior.files import read_json, write_json
from scaleprior.pretrain.card import made_card
from scaleprior.pretrain.data.augment import CropAugmentation
from scaleprior.pretrain.data.batches import ImageSet, TrainBatches, training_set
from scaleprior.pretrain.data.sizes import ImageSizes
from scaleprior.pretrain.evaluation.measures import Measures
from scaleprior.pretrain.figures.json_lines import JsonLines
from scaleprior.pretrain.figures.recorder import Recorder, closed_after
from scaleprior.pretrain.loop.calculating import calculating
from scaleprior.pretrain.loop.saved import saved_state
from scaleprior.pretrain.loop.step import TrainStep
from scaleprior.pretrain.loop.trainer import PretrainTrainer
from scaleprior.pretrain.metrics import LabelMetrics, Measured, PretrainMetrics
from scaleprior.pretrain.network.head import LinearHead
from scaleprior.pretrain.network.pretrainer import Pretrainer, prior_bias
from scaleprior.pretrain.network.sync_norms import share_statistics
from scaleprior.pretrain.optim.average import WeightAverage
from scaleprior.pretrain.optim.optimizers import build_optimizer
from scaleprior.pretrain.optim.schedule import Schedule, budget_steps
from scaleprior.pretrain.plan import (
    check_device,
    check_mode,
    check_pretraining,
    parent_card,
    planned_card,
    run_identity,
    run_parts,
)
from scaleprior.provenance import created_by
from scaleprior.training.checkpoint import load_checkpoint, save_checkpoint
from scaleprior.training.checkpoints import Checkpoints
from scaleprior.training.crews import TRAINED_BY, with_crew
from scaleprior.training.device import resolve_device
from scaleprior.training.metrics_file import write_errors
from scaleprior.training.positions import BatchPlan
from scaleprior.training.processes import ProcessGroup, join_processes, place_in_group
from scaleprior.training.run_folder import RUN_FILE, RunFolder
from scaleprior.training.seeds import seed_everything
from scaleprior.wording import parameter

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from scaleprior.config.load import LoadedConfig
    from scaleprior.progress import ProgressFn

__all__ = [
    "PretrainResult", "build_model", "build_trainer", "evaluate_pretrained", "run_pretraining", "training_device",
]  # fmt: skip

logger = logging.getLogger(__name__)

BACKBONE, HEAD, RESULT = "backbone.safetensors", "head.safetensors", "result.json"
_SCHEMA = 2  # of run.json; with 1 the result was called metrics.json, as Detectron2 calls its JSON lines


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


def run_pretraining(
    loaded: LoadedConfig,
    out: str | Path,
    *,
    resume: bool = False,
    progress: ProgressFn | None = None,
    recorder: Recorder | None = None,
) -> PretrainResult:
    """Pretrain the trunk of ``loaded.cfg`` on a fraction of a corpus.

    Under torchrun every process calls this with the same arguments; process 0 writes.

    Args:
        out: folder of the run.
        resume: go on with a run of the same config in ``out``, or return its result if it is finished; with nothing
            there, start. Without it, a folder that holds a run is refused.
        progress: called once a step with (steps done, steps in all, {"loss": ..., "images/s": ...}).
        recorder: where the numbers of every step go instead of ``metrics.jsonl``.

    Raises:
        UserError: an illegal value (names the key), a fraction that does not fit, another run's folder.
        Interrupted: SIGTERM; the state is saved. FailureError: a loss that is not finite, too many unreadable images,
            a full disk.
    """
    out, count = Path(out), place_in_group()[1]
    spec, parent = check_pretraining(loaded.cfg, processes=count).arch, parent_card(loaded.cfg)
    cfg = settled(loaded.cfg, count)
    corpus = Corpus.open(cfg.PRETRAIN.CORPUS)
    images = training_set(cfg, corpus)
    with calculating(cfg), join_processes(training_device(cfg), timeout=_timeout(cfg)) as processes:
        check_mode(cfg, processes.device.type, joined=processes.joined)
        measures = Measures.from_config(cfg, corpus, processes)
        identity = {
            "schema": _SCHEMA,
            **run_identity(cfg, corpus, processes=processes.size),
            "created_by": created_by(),
        }
        made_of = run_parts(cfg, corpus, identity)
        folder = RunFolder(out, identity, parts="config, corpus or number of processes", made_of=made_of)
        finished = _finished(folder, resume=resume)
        node, saved = cfg.PRETRAIN, None
        checkpoints = Checkpoints(out, keep=node.CHECKPOINTS)
        if resume and finished is None:
            saved = saved_state(folder, checkpoints, processes)  # refused before anything is written
        if node.PROCESSES == "any":
            done = 0 if saved is None else saved.state["counters"]["step"]
            folder = with_crew(folder, steps=done, processes=processes.size)
        processes.wait()  # nobody writes before everybody has looked
        if finished is not None:
            if processes.main:
                checkpoints.remove()  # left by a run killed between its last two lines
            return finished
        recorder = recorder or JsonLines.from_config(cfg, out)
        with closed_after(recorder, out):
            recorder.prepare(processes)
            if processes.main:
                log_settled(loaded.cfg, cfg, count)
                folder.write()
                write_config(cfg, out, complete=["PRETRAIN"])  # over what Detectron2's set-up may have put there
                if parent is not None:
                    warn_of_assumed(parent, logger)
            trainer = build_trainer(cfg, spec, images, processes, folder, checkpoints, parent)
            trainer.measures, trainer.measure_period = measures, cfg.PRETRAIN.EVAL.PERIOD
            if saved is not None:
                trainer.resume(saved)
                del saved  # as large as the model and the optimiser together
            with write_errors(out):
                recorder.open(processes, trainer.counters, trainer.schedule.total)
            trainer.train(recorder, progress)
            with trainer.averaged():
                measured = measures(trainer.model)
                head, result = trainer.model.head.whole(), None  # every process gives its share
                if processes.main and head is not None:
                    result = _finish(cfg, trainer, head, measured, parent, recorder)
            processes.wait()
        return result or _finished_result(out, RESULT)


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


def training_device(cfg: CfgNode) -> torch.device:
    """Where this process trains; a config that cannot be trained there is refused."""
    device = resolve_device(cfg.MODEL.DEVICE)
    check_device(cfg, device.type)
    return device


def _timeout(cfg: CfgNode) -> timedelta:
    return timedelta(minutes=cfg.PRETRAIN.PROCESS_TIMEOUT)


def _finished(folder: RunFolder, *, resume: bool) -> PretrainResult | None:
    """Check that the folder is free, or holds this very run; its result if that is finished."""
    out = folder.out
    if not resume and (out / RUN_FILE).exists():
        raise UserError(
            f"{out} already holds a pretraining run",
            hint=f"add {parameter('resume', True)}, or choose another {parameter('out')}",
        )
    before = folder.found()
    if before is None:
        return None
    result = RESULT if before.get("schema") == _SCHEMA else "metrics.json"
    if (out / result).exists() and (out / BACKBONE).exists():
        logger.info("%s is finished", out)
        return _finished_result(out, result)
    return None


def _finished_result(out: Path, name: str) -> PretrainResult:
    metrics = read_json(out / name, what="result of a run")
    return PretrainResult(out / BACKBONE, PretrainMetrics.from_dict(metrics, where=str(out / name)))


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
    bias = prior_bias(node.HEAD.PRIOR or _label_density(images, labels))
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


def _label_density(images: ImageSet, labels: int) -> float:
    """Mean share of the (known) labels that are present, from the first 4,096 images, kept away from 0 and 1."""
    rows = np.arange(min(len(images), 4096))
    _, offsets = images.labels_of(rows)
    absent = images.absent_of(rows)
    if absent is None:
        return float(np.clip(offsets[-1] / (len(offsets) - 1) / labels, 1e-6, 0.5))
    known = offsets[-1] + absent[1][-1]
    return float(np.clip(offsets[-1] / max(known, 1), 1e-6, 0.5))


def _finish(
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
    room(lambda: write_json(out / RESULT, metrics.to_dict()))
    trainer.checkpoints.remove()
    return PretrainResult(out / BACKBONE, metrics)
