"""The detectron2 engine: Detectron2's own model, loaders, trainer and COCO evaluation behind ``detect.Engine``.

Writes into its folder what Detectron2 writes (``model_final.pth``, ``last_checkpoint``, ``metrics.json``), and
``config.yaml`` with ``scaleprior.yaml``, ``log.txt`` and, first, ``run.json``: what made the run, with the hash of all
that determines it; and ``dropped.json`` where data were left out.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.evaluation import inference_on_dataset
from torch import nn

from scaleprior.config import LoadedConfig
from scaleprior.config.saved import write_config
from scaleprior.d2.backends import torch_settings
from scaleprior.d2.checks import check_builders, check_keys, detectron2_refuses
from scaleprior.d2.claiming import MODEL_FILE, claim
from scaleprior.d2.data.datasets import problems_of
from scaleprior.d2.evaluation.augmented import AUGMENTED_FOLDER, SUFFIX, augmented_model
from scaleprior.d2.evaluation.checks import check_evaluation
from scaleprior.d2.evaluation.expected import verify_expected
from scaleprior.d2.evaluation.places import check_places
from scaleprior.d2.evaluation.results import results_by_set
from scaleprior.d2.logs import quiet_stdout, run_log
from scaleprior.d2.plan import Plan, default_config, plan_evaluation, plan_training
from scaleprior.d2.trainer import Trainer
from scaleprior.d2.weights.checkpoint import load_detector
from scaleprior.d2.weights.saved import numbered_checkpoints
from scaleprior.detect.data.dropped import record_dropped
from scaleprior.detect.data.names import BUILTIN_SETS
from scaleprior.detect.metrics import DetectionResult, results_to_dict
from scaleprior.detect.results_file import append_result
from scaleprior.files import write_json
from scaleprior.locks import alone_in
from scaleprior.progress import ProgressFn
from scaleprior.training.checkpoints import KEPT
from scaleprior.training.seeds import seed_everything

__all__ = ["Detectron2Engine", "evaluate_sets", "record"]

logger = logging.getLogger(__name__)


class _EngineTrainer(Trainer):
    """Keeps two checkpoints: an engine's folder holds what resuming needs and, at the end, the model."""

    keep_checkpoints = KEPT


class Detectron2Engine:
    """See ``detect.engines.Engine``."""

    name = "detectron2"
    model_file = MODEL_FILE

    def default_config(self) -> CfgNode:
        """Detectron2's keys and ours."""
        return default_config()

    def check_config(self, cfg: CfgNode) -> None:
        """What Detectron2 would look up: builders, the trunk of MODEL.TIMM.MODEL, evaluators, files of its own sets.

        COCO's are looked at with the sets of the user's own (``detect/check.py``).
        """
        check_builders(cfg)
        check_keys(cfg, training=True)
        check_evaluation(cfg, looked_at=BUILTIN_SETS)
        for name in cfg.DATASETS.TRAIN:
            if name in DatasetCatalog and name not in BUILTIN_SETS:
                check_places(name, evaluated=False)

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
        """Train and return ``out/model_final.pth``; see ``detect.engines.Engine.train``.

        ``DATASETS.TEST`` is evaluated on the way where ``TEST.EVAL_PERIOD`` asks for it, and not at the end:
        :meth:`evaluate` does that.
        """
        out = Path(out)
        with contextlib.ExitStack() as held, run_log(out) as log, quiet_stdout():
            plan = plan_training(loaded, weights, out)
            held.enter_context(alone_in(out))
            trained, finished = claim(plan, out, resume=resume, extend=extend)
            log.open()
            if finished:
                logger.info("%s is complete", out / MODEL_FILE)
            else:
                record_dropped(out, problems_of(plan.cfg.DATASETS.TRAIN), anew=True)
                _train(replace(plan, trained=trained), out, resume or extend, progress)
                for left in numbered_checkpoints(out):
                    left.unlink()
        return out / MODEL_FILE

    def evaluate(
        self, loaded: LoadedConfig, model: Path, out: Path, *, progress: ProgressFn | None = None
    ) -> dict[str, DetectionResult]:
        """Evaluate ``model_final.pth`` on ``DATASETS.TEST``; see ``detect.engines.Engine.evaluate``.

        Raises:
            FailureError: ``TEST.EXPECTED_RESULTS`` are not met; what was found is recorded.
        """
        out = Path(out)
        with run_log(out) as log, quiet_stdout():
            plan = plan_evaluation(loaded, model, out)
            log.open()
            with detectron2_refuses():
                detector = Trainer.build_model(plan.cfg)
            load_detector(detector, plan.cfg.MODEL.WEIGHTS)
            with torch_settings(plan.cfg, training=False):
                results = evaluate_sets(plan.cfg, detector, out, progress)
            write_json(out / "results.json", {"engine": self.name, "model": str(model), **results_to_dict(results)})
            record_dropped(out, problems_of(plan.cfg.DATASETS.TEST), anew=False)
            record(plan, results, model)
            verify_expected(plan.cfg, results)
        return results


def _train(plan: Plan, out: Path, resume: bool, progress: ProgressFn | None) -> None:
    write_config(plan.cfg, out)
    cfg = plan.cfg.clone()
    cfg.defrost()
    if not cfg.TEST.EVAL_PERIOD:
        cfg.DATASETS.TEST = ()
    # What is done once the training is over is the evaluation's.
    cfg.TEST.AUG.ENABLED, cfg.TEST.EXPECTED_RESULTS = False, []
    cfg.freeze()
    seed_everything(cfg.SEED)
    with torch_settings(cfg, training=True):
        with detectron2_refuses():
            trainer = _EngineTrainer(cfg)
        trainer.trained, trainer.progress = plan.trained, progress
        trainer.resume_or_load(resume)
        trainer.train()


def evaluate_sets(
    cfg: CfgNode, model: nn.Module, out: Path, progress: ProgressFn | None = None
) -> dict[str, DetectionResult]:
    """AP of ``model`` on every set of ``DATASETS.TEST``, as ``Engine.evaluate`` returns it."""
    results = {}
    for name in cfg.DATASETS.TEST:
        start = time.perf_counter()
        folder = out if len(cfg.DATASETS.TEST) == 1 else out / name
        loader = Trainer.build_test_loader(cfg, name)
        found = dict(
            inference_on_dataset(model, _Counted(loader, progress), Trainer.build_evaluator(cfg, name, str(folder)))
        )
        if cfg.TEST.AUG.ENABLED:
            evaluator = Trainer.build_evaluator(cfg, name, str(folder / AUGMENTED_FOLDER))
            augmented = inference_on_dataset(augmented_model(cfg, model), _Counted(loader, progress), evaluator)
            found |= {task + SUFFIX: numbers for task, numbers in augmented.items()}
        seconds = round(time.perf_counter() - start, 3)
        (result,) = results_by_set(found, [name]).values()
        results[name] = replace(result, images=len(loader), seconds=seconds)
    return results


def record(plan: Plan, results: Mapping[str, DetectionResult], model: str | Path) -> None:
    """Append what evaluating ``model`` found to ``SCALEPRIOR.RESULTS``, if there is one."""
    if plan.cfg.SCALEPRIOR.RESULTS:
        append_result(
            plan.cfg.SCALEPRIOR.RESULTS,
            results,
            cfg=plan.cfg,
            engine=Detectron2Engine.name,
            trained=plan.trained,
            model=model,
        )


class _Counted:
    """A test loader that tells how far it is."""

    def __init__(self, loader: Any, progress: ProgressFn | None) -> None:
        self._loader = loader
        self._progress = progress

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        for done, batch in enumerate(self._loader, start=1):
            yield batch
            if self._progress is not None:
                self._progress(done, len(self._loader), {})
