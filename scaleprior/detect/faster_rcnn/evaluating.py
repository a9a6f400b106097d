"""A detector's measures on one set, whose batches the processes that there are share out."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scaleprior.detect.data.coco import DetectionSet
from scaleprior.detect.data.store.room import machine_room
from scaleprior.detect.evaluate import coco_ap
from scaleprior.detect.faster_rcnn.found import Found
from scaleprior.detect.faster_rcnn.model import Detector
from scaleprior.detect.faster_rcnn.predict import BatchLimits, predict
from scaleprior.detect.metrics import DetectionResult
from scaleprior.files import write_text
from scaleprior.progress import ProgressFn
from scaleprior.training.agreement import together
from scaleprior.training.processes import ProcessGroup

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["evaluate_set"]


def evaluate_set(
    cfg: CfgNode,
    model: Detector,
    data: DetectionSet,
    out: Path,
    processes: ProcessGroup,
    *,
    progress: ProgressFn | None = None,
) -> DetectionResult:
    """What COCO's evaluation says of ``model``, in every process; each has to call this.

    Process 0 gathers what all found, in the order of the images, writes ``out/detections_SET.json`` and evaluates it;
    both are to the bit what one process makes. It tells ``progress``.

    Raises:
        UserError: an image cannot be used, or the set has no objects. Of several processes all raise it, those that
            have no part in it at the end of their share.
    """
    start = time.perf_counter()
    found = together(processes, lambda: _found(cfg, model, data, processes, progress if processes.main else None))
    shares = processes.to_main(found)
    result = together(processes, lambda: None if shares is None else _measured(cfg, Found.joined(shares), data, out))
    result = processes.from_one(result)
    assert result is not None
    return replace(result, seconds=round(processes.from_one(time.perf_counter() - start), 3))


def _found(
    cfg: CfgNode, model: Detector, data: DetectionSet, processes: ProcessGroup, progress: ProgressFn | None
) -> Found:
    return predict(
        model,
        data,
        order=cfg.INPUT.FORMAT,
        short=cfg.INPUT.MIN_SIZE_TEST,
        longest=cfg.INPUT.MAX_SIZE_TEST,
        limits=BatchLimits.on(processes.device, cfg),
        threads=cfg.DATALOADER.NUM_WORKERS,
        strict=cfg.SCALEPRIOR.STRICT_IMAGES,
        room=machine_room(cfg.SCALEPRIOR.IMAGE_STORE_MB),
        share=(processes.rank, processes.size),
        progress=progress,
    )


def _measured(cfg: CfgNode, found: Found, data: DetectionSet, out: Path) -> DetectionResult:
    detections = found.rows(data)
    write_text(out / f"detections_{re.sub(r'[^A-Za-z0-9._-]', '_', data.name)}.json", json.dumps(detections))
    return coco_ap(data.truth, detections, masks=cfg.MODEL.MASK_ON)
