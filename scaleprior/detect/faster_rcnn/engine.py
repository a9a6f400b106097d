"""The embedded engine: Faster R-CNN, C4 or FPN, from a Detectron2-style config, on torchvision's operators.

Writes into its folder: config.yaml with scaleprior.yaml, metrics.jsonl, checkpoint_STEP.safetensors (while training),
model.safetensors, on evaluation detections_SET.json (COCO results format) and results.json, and dropped.json where data
were left out.
"""

from __future__ import annotations

import json
import logging
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scaleprior.backbones.assumed import warn_of_assumed
from scaleprior.backbones.canonical import canonical_file
from scaleprior.backbones.contract import apply_card
from scaleprior.backbones.weights import read_card
from scaleprior.backbones.zoo import model_path
from scaleprior.config import LoadedConfig, get_cfg
from scaleprior.config.saved import write_config
from scaleprior.config.seed import run_seed
from scaleprior.detect.data.coco import DetectionSet, dataset_paths, load_dataset
from scaleprior.detect.data.dropped import record_dropped
from scaleprior.detect.data.loader import TrainLoader
from scaleprior.detect.data.store.room import machine_room
from scaleprior.detect.evaluate import coco_ap
from scaleprior.detect.faster_rcnn import model_file as weights_io
from scaleprior.detect.faster_rcnn.keys import check_keys
from scaleprior.detect.faster_rcnn.model import Detector, build_detector
from scaleprior.detect.faster_rcnn.predict import BatchLimits, predict
from scaleprior.detect.faster_rcnn.trainer import DetectorTrainer, checkpoint_steps
from scaleprior.detect.fingerprint import run_fingerprint, run_parts, run_schedule
from scaleprior.detect.identity import tuning_of
from scaleprior.detect.metrics import DetectionResult, results_to_dict
from scaleprior.detect.plan import (
    check_class_count,
    check_same_classes,
    follow_training,
    set_names,
    warn_of_frozen_stages,
)
from scaleprior.detect.results_file import append_result
from scaleprior.detect.trained import TrainedDetector
from scaleprior.errors import UserError
from scaleprior.files import write_json, write_text
from scaleprior.progress import ProgressFn
from scaleprior.provenance import created_by
from scaleprior.training.checkpoints import Checkpoints
from scaleprior.training.device import resolve_device
from scaleprior.training.run_folder import RunFolder
from scaleprior.training.seeds import seed_everything

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["MODEL_FILE", "TorchvisionEngine"]

logger = logging.getLogger(__name__)

MODEL_FILE = "model.safetensors"


class TorchvisionEngine:
    """See ``engines.Engine``."""

    name = "torchvision"
    model_file = MODEL_FILE

    def default_config(self) -> CfgNode:
        """See ``engines.Engine.default_config``."""
        return get_cfg()

    def check_config(self, cfg: CfgNode) -> None:
        """See ``engines.Engine.check_config``."""
        check_keys(cfg)

    def train(
        self,
        loaded: LoadedConfig,
        weights: Path | None,
        out: Path,
        *,
        resume: bool = False,
        extend: bool = False,
        progress: ProgressFn | None = None,
    ) -> Path:
        """Train and return ``out/model.safetensors``; see ``engines.Engine.train``.

        A run that is finished cannot be extended: what goes on with it, the optimiser's state, is gone.

        Raises:
            UserError: config, data or weights are not fit; nothing is written then.
            FailureError: the loss is not finite, or the disk is full.
        """
        if weights is None and loaded.cfg.MODEL.WEIGHTS:
            weights = loaded.cfg.MODEL.WEIGHTS
        start = None if weights is None else canonical_file(weights)
        card = None if start is None else read_card(start)
        loaded = loaded if card is None else LoadedConfig(apply_card(loaded, card), loaded.explicit, loaded.source)
        sets = _load_sets(loaded.cfg, "DATASETS.TRAIN")
        for name in loaded.cfg.DATASETS.TEST:
            dataset_paths(name, loaded.cfg)  # a wrong name should not show only after the training
        cfg = _with_classes(loaded, sets[0])
        check_keys(cfg)
        loader = TrainLoader.from_config(cfg, sets)

        sources = [data.source for data in sets]
        identity = {
            "fingerprint": run_fingerprint(cfg, card, sources),
            "seed": run_seed(cfg),
            "created_by": created_by(),
        }
        schedule = run_schedule(cfg, card, sources)
        made_of = run_parts(cfg, card, sources, engine=self.name)
        folder = RunFolder(out, identity, parts="config, backbone or data", schedule=schedule, made_of=made_of)
        target = out / MODEL_FILE
        if resume or extend:
            folder = folder.resumed(extend=extend, steps_done=lambda: _steps_done(out)) or folder
            if target.is_file() and weights_io.read_trained(target).fingerprint == folder.fingerprint:
                logger.info("%s is complete", target)
                return target
        seed_everything(run_seed(cfg))
        model = build_detector(cfg)
        if start is not None:
            _, start_card = weights_io.start_from_backbone(model, start)
            warn_of_assumed(start_card, logger)
        else:
            warn_of_frozen_stages(cfg)
        model.to(resolve_device(cfg.MODEL.DEVICE))
        trainer = DetectorTrainer(cfg, model, loader, folder)
        if resume or extend:
            trainer.resume()
        folder.write()  # from here on the folder is this run's
        write_config(cfg, out)
        record_dropped(out, {data.name: data.problems for data in sets}, anew=True)
        trainer.train(progress=progress)
        trained = TrainedDetector(
            class_names=sets[0].class_names,
            category_ids=sets[0].category_ids,
            config=weights_io.fixed_values(cfg),
            card=card,
            seed=run_seed(cfg),
            max_iter=cfg.SOLVER.MAX_ITER,
            fingerprint=folder.fingerprint,
            created_by=created_by(),
            tuning=tuning_of(cfg, folder.history),
            extended=folder.history,
        )
        trainer.checkpoints.making_room(lambda: weights_io.save_model(target, model, trained))
        trainer.checkpoints.remove()  # the model says it all; a checkpoint is twice as large
        return target

    def evaluate(
        self, loaded: LoadedConfig, model: Path, out: Path, *, progress: ProgressFn | None = None
    ) -> dict[str, DetectionResult]:
        """Evaluate a model file on ``DATASETS.TEST``; see ``engines.Engine.evaluate``.

        Raises:
            UserError: config, data and model do not fit each other.
        """
        model = model_path(model)
        trained = weights_io.read_trained(model)
        cfg = follow_training(loaded, trained.config, weights_io.fixed_values(loaded.cfg))
        check_keys(cfg)
        sets = _load_sets(cfg, "DATASETS.TEST")
        for data in sets:
            check_same_classes(data.source, data.class_names, trained.class_names)
            if data.category_ids != trained.category_ids:
                raise UserError(
                    f"{data.source} has the category ids {data.category_ids}, the model was trained on "
                    f"{trained.category_ids}",
                    hint="evaluate on a set with the same categories",
                )
        detector = build_detector(cfg)
        weights_io.load_model(model, detector)
        detector.to(resolve_device(cfg.MODEL.DEVICE))
        results = {data.name: _evaluate_set(cfg, detector, data, out, progress) for data in sets}
        record_dropped(out, {data.name: data.problems for data in sets}, anew=False)
        write_json(out / "results.json", {"engine": self.name, "model": str(model), **results_to_dict(results)})
        if cfg.SCALEPRIOR.RESULTS:
            append_result(
                cfg.SCALEPRIOR.RESULTS,
                results,
                cfg=cfg,
                engine=self.name,
                trained=trained,
                model=model,
            )
        return results


def _steps_done(out: Path) -> int:
    """Of the checkpoint to go on from.

    Raises:
        UserError: the run is finished.
    """
    steps = checkpoint_steps(Checkpoints(out))
    if steps is not None:
        return steps
    if (out / MODEL_FILE).is_file():
        raise UserError(
            f"{out} holds a finished run, which the torchvision engine cannot extend: its optimiser's state was "
            f"removed when {MODEL_FILE} was written",
            hint="train anew in another folder; the detectron2 engine keeps what a finished run needs to go on",
        )
    return 0


def _evaluate_set(
    cfg: CfgNode, model: Detector, data: DetectionSet, out: Path, progress: ProgressFn | None
) -> DetectionResult:
    start = time.perf_counter()
    found = predict(
        model,
        data,
        order=cfg.INPUT.FORMAT,
        short=cfg.INPUT.MIN_SIZE_TEST,
        longest=cfg.INPUT.MAX_SIZE_TEST,
        limits=BatchLimits.on(next(model.parameters()).device, cfg),
        threads=cfg.DATALOADER.NUM_WORKERS,
        strict=cfg.SCALEPRIOR.STRICT_IMAGES,
        room=machine_room(cfg.SCALEPRIOR.IMAGE_STORE_MB),
        progress=progress,
    )
    detections = found.rows(data)
    write_text(out / f"detections_{re.sub(r'[^A-Za-z0-9._-]', '_', data.name)}.json", json.dumps(detections))
    result = coco_ap(data.truth, detections, masks=cfg.MODEL.get("MASK_ON", False))
    return replace(result, seconds=round(time.perf_counter() - start, 3))


def _load_sets(cfg: CfgNode, key: str) -> list[DetectionSet]:
    sets = [load_dataset(name, cfg, evaluated=key == "DATASETS.TEST") for name in set_names(cfg, key)]
    for other in sets[1:]:
        if (other.category_ids, other.class_names) != (sets[0].category_ids, sets[0].class_names):
            raise UserError(
                f"{sets[0].name} and {other.name} in {key} have different categories",
                hint="use sets with the same ones",
            )
    return sets


def _with_classes(loaded: LoadedConfig, data: DetectionSet) -> CfgNode:
    """The config with NUM_CLASSES of the data.

    Raises:
        UserError: it was set to another number.
    """
    classes = len(data.class_names)
    check_class_count(loaded, "MODEL.ROI_HEADS.NUM_CLASSES", classes, data.source)
    cfg = loaded.cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = classes
    cfg.freeze()
    return cfg
