"""Everything that would stop a fine-tuning run, found before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from scaleprior.backbones.canonical import canonical_file
from scaleprior.backbones.card import Card
from scaleprior.backbones.contract import apply_card
from scaleprior.backbones.trunks.selection import spec_from_config
from scaleprior.backbones.trunks.trunk import build_trunk
from scaleprior.backbones.weights import has_card, read_card
from scaleprior.backbones.zoo import local_path
from scaleprior.checking import CheckReport
from scaleprior.config import LoadedConfig
from scaleprior.config.dotted import set_key
from scaleprior.detect.data.check import SetFiles, check_sets
from scaleprior.detect.data.coco import mask_use
from scaleprior.detect.data.names import BUILTIN_SETS, dataset_paths, own_sets, require_files
from scaleprior.detect.engines import Engine
from scaleprior.detect.faster_rcnn.engine import TorchvisionEngine
from scaleprior.detect.faster_rcnn.model import build_detector
from scaleprior.detect.plan import check_class_count, set_names, starts_from_detector
from scaleprior.detect.start import stays_an_address
from scaleprior.detect.workers import check_share, scaled
from scaleprior.errors import ScalePriorError
from scaleprior.progress import ProgressFn
from scaleprior.training.checkpoints import KEPT
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

__all__ = ["check_detection", "detection_needs"]

_CLASSES = "MODEL.ROI_HEADS.NUM_CLASSES"
_TWO_STAGES = "GeneralizedRCNN"  # whose classes that key counts; the torchvision engine has no other
_MOMENTUM = 1  # numbers that SGD keeps for each parameter


def check_detection(
    loaded: LoadedConfig,
    weights: str | Path | None,
    out: str | Path,
    *,
    engine: Engine,
    processes: int = 1,
    progress: ProgressFn | None = None,
) -> CheckReport:
    """Look at all that ``engine.train`` and then ``engine.evaluate`` would meet; nothing is written but the cache.

    Looked at are the backbone's card, the config, both sets with the headers of all images, the space on the disk and
    the memory.

    Args:
        loaded: on the engine's ``default_config()``.
        weights: whatever names the backbone to start from; None = ``MODEL.WEIGHTS``, or fresh weights where that is
            empty.
        out: folder of the run.
        processes: that share out a batch.
        progress: called with (images done, images in all, {}) for each set.
    """
    report = CheckReport()
    with report.collecting("weights"):
        start = weights or loaded.cfg.MODEL.WEIGHTS
        if starts_from_detector(loaded.cfg):
            report.facts["weights"] = f"not looked at: a whole detector, {start}"
            start = ""
        card = _card(report, start, engine)
        if card is not None:
            report.facts["weights"] = f"{card.name}, {card.arch.name}"
            loaded = LoadedConfig(apply_card(loaded, card), loaded.explicit, loaded.source)
    with report.collecting("config"):
        engine.check_config(loaded.cfg)
        if isinstance(engine, TorchvisionEngine):
            check_share(scaled(loaded.cfg, processes), processes)
    sets, classes = check_sets(
        _sets(loaded.cfg, engine, report),
        same_ids=isinstance(engine, TorchvisionEngine),
        detectron2=engine.name == "detectron2",
        progress=progress,
    )
    report.take(sets)
    cfg = loaded.cfg.clone()
    cfg.defrost()
    if classes is not None and cfg.MODEL.get("META_ARCHITECTURE", _TWO_STAGES) == _TWO_STAGES:
        with report.collecting("config"):
            check_class_count(loaded, _CLASSES, classes, "the training set")
        set_key(cfg, _CLASSES, classes)
    needs = None if report.of("weights", "config") else detection_needs(cfg, engine, processes=processes)
    if needs is not None:
        check_disk(report, out, least=needs.left, most=needs.peak)
        check_memory(report, cfg.MODEL.DEVICE, needs.memory, of=needs.of)
    return report


def _card(report: CheckReport, weights: str | Path, engine: Engine) -> Card | None:
    """Of the backbone; None from scratch, and where only the engine knows how to read it.

    Raises:
        UserError: there is none that the run could start from.
    """
    if not str(weights):
        return None
    if stays_an_address(weights, engine):
        report.facts["weights"] = f"not looked at: the {engine.name} engine may know {weights}"
        return None
    if isinstance(engine, TorchvisionEngine) or engine.name == "detectron2":
        return read_card(canonical_file(weights))
    path = local_path(weights)
    return read_card(path) if has_card(path) else None


def _sets(cfg: CfgNode, engine: Engine, report: CheckReport) -> list[SetFiles]:
    """The files of the sets to train and evaluate on; those that only the engine may know are left to it."""
    found = []
    own = own_sets(cfg)
    with report.collecting("data"):
        set_names(cfg, "DATASETS.TRAIN")
    for role, names in (("train", cfg.DATASETS.TRAIN), ("val", cfg.DATASETS.TEST)):
        for name in names:
            known = name in own or name in BUILTIN_SETS
            if not known and not isinstance(engine, TorchvisionEngine):
                report.facts[f"{role} {name}"] = f"not looked at: the {engine.name} engine may know it"
                continue
            with report.collecting("data"):
                annotations, root = dataset_paths(name, cfg)
                builtin = name not in own
                if builtin:
                    require_files(name, annotations, root)
                drop_bad = cfg.SCALEPRIOR.DROP_BAD
                # what has no mask is left out by the torchvision engine alone; the other one refuses it later
                leaves_out = drop_bad == "none" or isinstance(engine, TorchvisionEngine)
                masks = mask_use(cfg, evaluated=role == "val") if leaves_out else None
                found.append(SetFiles(role, name, annotations, root, builtin, drop_bad, masks))
    return found


def detection_needs(cfg: CfgNode, engine: Engine, *, processes: int = 1) -> Needs | None:
    """What fine-tuning takes; of a detector that is not known here its trunk alone counts, and without one None.

    Args:
        cfg: with the number of classes.
        processes: that share out a batch.
    """
    try:
        spec = spec_from_config(cfg)
        with torch.device("meta"):
            whole = isinstance(engine, TorchvisionEngine)
            model: nn.Module = build_detector(cfg) if whole else build_trunk(spec)
    except ScalePriorError:
        return None  # another's builder, whose trunk is not known here
    weights = parameter_bytes(model)
    # A config that is meant for so many processes is scaled to those there are: each keeps its share of the batch.
    images = max(cfg.SOLVER.IMS_PER_BATCH // (cfg.SOLVER.get("REFERENCE_WORLD_SIZE", 0) or processes), 1)
    side = min(*cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN)
    batch = images * map_bytes(spec, side * side, cfg.MODEL.RESNETS.OUT_FEATURES, half=cfg.SOLVER.AMP.ENABLED)
    return Needs(
        left=weights,
        peak=(KEPT + 1) * weights * (1 + _MOMENTUM),  # the next checkpoint, beside those that are kept
        memory=training_bytes(model, slots=_MOMENTUM) + batch,
        of=f"parameters, gradients, momentum and the maps of {images} images of {side}x{side} pixels",
    )
