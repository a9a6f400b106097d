"""The embedded engine: Faster R-CNN, C4 or FPN, from a Detectron2-style config, on torchvision's operators.

Writes into its folder: config.yaml with scaleprior.yaml, metrics.jsonl, checkpoint_STEP.safetensors (while training),
model.safetensors, on evaluation detections_SET.json (COCO results format) and results.json, and dropped.json where data
were left out.
"""

from __future__ import annotations

import contextlib
import logging
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from scaleprior.backbones.assumed import warn_of_assumed
from scaleprior.backbones.zoo import model_path
from scaleprior.config import LoadedConfig, get_cfg
from scaleprior.config.saved import write_config
from scaleprior.config.seed import run_seed
from scaleprior.detect.data.dropped import record_dropped
from scaleprior.detect.data.loader import TrainLoader
from scaleprior.detect.faster_rcnn import model_file as weights_io
from scaleprior.detect.faster_rcnn.claiming import MODEL_FILE, TrainingPlan, claim, last_crew, load_sets, plan_training
from scaleprior.detect.faster_rcnn.evaluating import evaluate_set
from scaleprior.detect.faster_rcnn.keys import check_keys
from scaleprior.detect.faster_rcnn.model import build_detector
from scaleprior.detect.faster_rcnn.norms import share_norms, uses_own_statistics
from scaleprior.detect.faster_rcnn.trainer import DetectorTrainer
from scaleprior.detect.identity import tuning_of
from scaleprior.detect.metrics import DetectionResult, results_to_dict
from scaleprior.detect.plan import check_same_classes, follow_training, warn_of_frozen_stages
from scaleprior.detect.results_file import append_result
from scaleprior.detect.trained import TrainedDetector
from scaleprior.errors import UserError
from scaleprior.files import write_json
from scaleprior.locks import alone_in
from scaleprior.progress import ProgressFn
from scaleprior.provenance import created_by
from scaleprior.training.agreement import together
from scaleprior.training.checkpoints import Checkpoints
from scaleprior.training.crews import with_crew
from scaleprior.training.device import resolve_device
from scaleprior.training.processes import ProcessGroup, join_processes, place_in_group
from scaleprior.training.run_folder import RunFolder
from scaleprior.training.seeds import seed_everything
from scaleprior.wording import counted

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["MODEL_FILE", "TorchvisionEngine"]

logger = logging.getLogger(__name__)

_PATIENCE = timedelta(minutes=30)
"""For which a process waits for another that stands still; one that has ended is noticed at once. What one does alone,
as writing a checkpoint on a slow disk, has to fit."""


class TorchvisionEngine:
    """See ``engines.Engine``."""

    name = "torchvision"
    several_processes = True
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

        Under torchrun, or ``training.launching.launch``, every process calls this with the same arguments; process 0
        writes. A run that is finished cannot be extended: what goes on with it, the optimiser's state, is gone.

        Raises:
            UserError: config, data or weights are not fit; nothing is written then.
            FailureError: the loss is not finite, the disk is full, or a process was lost.
        """
        count = place_in_group()[1]
        plan = plan_training(loaded, weights, processes=count)
        with join_processes(resolve_device(plan.cfg.MODEL.DEVICE), timeout=_PATIENCE) as processes:
            folder, finished = claim(plan, out, processes=count, resume=resume, extend=extend)
            processes.wait()  # nobody writes before everybody has looked
            if not finished:
                with alone_in(out) if processes.main else contextlib.nullcontext():
                    _train(plan, folder, processes, resume=resume or extend, progress=progress)
            elif processes.main:
                Checkpoints(out).remove()  # left by a run killed between its last two lines
            processes.wait()  # what all return is there
        return out / MODEL_FILE

    def evaluate(
        self, loaded: LoadedConfig, model: Path, out: Path, *, progress: ProgressFn | None = None
    ) -> dict[str, DetectionResult]:
        """Evaluate a model file on ``DATASETS.TEST``; see ``engines.Engine.evaluate``. Of several processes each calls
        this and gets the results; process 0 writes.

        Raises:
            UserError: config, data and model do not fit each other.
        """
        model = model_path(model)
        trained = weights_io.read_trained(model)
        cfg = follow_training(loaded, trained.config, weights_io.fixed_values(loaded.cfg))
        check_keys(cfg)
        sets = load_sets(cfg, "DATASETS.TEST")
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
        with join_processes(resolve_device(cfg.MODEL.DEVICE), timeout=_PATIENCE) as processes:
            detector.to(processes.device)
            results = {data.name: evaluate_set(cfg, detector, data, out, processes, progress=progress) for data in sets}

            def record() -> None:
                record_dropped(out, {data.name: data.problems for data in sets}, anew=False)
                found = {"engine": self.name, "model": str(model), **results_to_dict(results)}
                write_json(out / "results.json", found)
                if cfg.SCALEPRIOR.RESULTS:
                    append_result(
                        cfg.SCALEPRIOR.RESULTS, results, cfg=cfg, engine=self.name, trained=trained, model=model
                    )

            together(processes, lambda: record() if processes.main else None)
        return results


def _train(
    plan: TrainingPlan,
    folder: RunFolder,
    processes: ProcessGroup,
    *,
    resume: bool,
    progress: ProgressFn | None,
) -> None:
    """Train, and write the model, in a folder that is the run's."""
    cfg, out = plan.cfg, folder.out
    loader = TrainLoader.from_config(cfg, plan.sets, rank=processes.rank, processes=processes.size)
    seed_everything(run_seed(cfg))
    model = build_detector(cfg)
    if plan.start is not None:
        _, start_card = weights_io.start_from_backbone(model, plan.start)
        if processes.main:
            warn_of_assumed(start_card, logger)
    elif processes.main:
        warn_of_frozen_stages(cfg)
    model.to(processes.device)
    share_norms(model, cfg, processes)
    trainer = DetectorTrainer(cfg, model, loader, folder, processes)
    if resume:
        trainer.resume()
    if processes.main:
        if trainer.step:
            folder.warn_of_other_version()
        if trainer.step and last_crew(folder) not in (None, processes.size) and uses_own_statistics(model, cfg):
            logger.warning(
                "%s was trained by %s and goes on with %d: BN has the statistics of other images from here on",
                out,
                counted(last_crew(folder) or 1, "processes"),
                processes.size,
            )
        with_crew(folder, steps=trainer.step, processes=processes.size).write()  # the folder is this run's from here on
        write_config(cfg, out)
        record_dropped(out, {data.name: data.problems for data in plan.sets}, anew=True)
    trainer.train(progress=progress)
    if processes.main:
        trained = TrainedDetector(
            class_names=plan.sets[0].class_names,
            category_ids=plan.sets[0].category_ids,
            config=weights_io.fixed_values(cfg),
            card=plan.card,
            seed=run_seed(cfg),
            max_iter=cfg.SOLVER.MAX_ITER,
            fingerprint=folder.fingerprint,
            created_by=created_by(),
            tuning=tuning_of(cfg, folder.history),
            extended=folder.history,
        )
        trainer.checkpoints.making_room(lambda: weights_io.save_model(out / MODEL_FILE, model, trained))
        trainer.checkpoints.remove()  # the model says it all; a checkpoint is twice as large
