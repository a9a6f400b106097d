"""Detectron2's ``DefaultTrainer`` for ScalePrior's backbones: seeded, resumable to the bit, evaluated on COCO.

What it adds to Detectron2's own, each as a hook or an override that Detectron2 provides for: a loader with a position
(``loader.py``), one seed a step, checkpoints that are complete under their final name, a loss that is not finite named
with its images, and SIGTERM that saves.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from torch import nn

from scaleprior.config.seed import run_seed
from scaleprior.d2.checks import check_keys, check_solver
from scaleprior.d2.data.classes import check_classes
from scaleprior.d2.data.datasets import check_annotated
from scaleprior.d2.data.loader import NamedMapper, ResumableLoader, TestLoader, UnusableImage
from scaleprior.d2.data.stored import with_store
from scaleprior.d2.evaluation.as_saved import as_saved
from scaleprior.d2.evaluation.augmented import AUGMENTED_FOLDER, SUFFIX, augmented_model
from scaleprior.d2.evaluation.checks import check_evaluation
from scaleprior.d2.evaluation.hooks import evaluation_hooks
from scaleprior.d2.evaluation.kinds import build_evaluator
from scaleprior.d2.normalizers import NORMALIZERS, normalizers, set_normalizers
from scaleprior.d2.precision import LossScale, overflow_in, set_precision, with_scaler
from scaleprior.d2.ready import ddp_on_cpu, ready, with_sets
from scaleprior.d2.weights.checkpointer import TrainerCheckpointer
from scaleprior.d2.weights.norm_eps import build_norm_eps
from scaleprior.detect.trained import TrainedDetector
from scaleprior.errors import FailureError, UserError
from scaleprior.progress import ProgressFn
from scaleprior.training.metrics_file import cut_lines
from scaleprior.training.run_folder import with_way_on
from scaleprior.training.seeds import step_seed
from scaleprior.training.signals import Interrupted, StopRequest, catch_sigterm
from scaleprior.wording import either, flag, parameter

__all__ = ["Trainer"]

# Below Detectron2's own logger, so that a program of the user's, which set up that one, shows it.
logger = logging.getLogger("detectron2.scaleprior")

_EVALUATION = either("Trainer.test", flag("eval_only"))
_KEYS_FIRST = either(" (a key that add_scaleprior_config(cfg) knows)", "")


class Trainer(DefaultTrainer):
    """Use it as ``DefaultTrainer``: ``Trainer(cfg)``, ``resume_or_load(resume)``, ``train()``.

    What people override in ``DefaultTrainer`` they may override here. A ``build_train_loader`` that only wants another
    mapper returns ``super().build_train_loader(cfg, mapper=...)``, whose order goes on after a resume.

    Attributes:
        cfg: as given; with ScalePrior's keys at their defaults where it had none, and scaled to the processes by
            SOLVER.REFERENCE_WORLD_SIZE.
        keep_checkpoints: newest checkpoints to keep on the way, those of earlier starts among them; where the disk is
            full, older ones give way. None = all, as Detectron2 does.
        trained: what the detector will say of itself; goes into every checkpoint under ``EXTRA_KEY``. None = nothing.
        progress: called once a step with (steps done, all steps, {"loss": ...}).
    """

    keep_checkpoints: int | None = None
    trained: TrainedDetector | None = None
    progress: ProgressFn | None = None
    model: nn.Module  # this and the next are Detectron2's properties
    optimizer: torch.optim.Optimizer
    data_loader: Any
    _stop = StopRequest()
    _normalizers: Sequence[dict[str, float]] = ()  # of every process
    _done = 0  # steps that are whole, hooks and all

    def __init__(self, cfg: CfgNode) -> None:
        """Register SCALEPRIOR.DATASETS and build everything.

        Raises:
            UserError: a schedule, a machine, a set or a key that cannot be honoured; names it.
        """
        cfg = ready(cfg)
        check_solver(cfg)
        check_keys(cfg, training=True)
        check_annotated(cfg, training=True)
        check_classes(cfg, own_loader=self._overrides("build_train_loader"))
        check_evaluation(cfg, own_evaluators=self._overrides("build_evaluator"))
        if not (self._overrides("build_test_loader") or self._overrides("test")):  # else the names may be theirs alone
            with_sets(cfg, [name for name in cfg.DATASETS.TEST if name not in DatasetCatalog])
        with ddp_on_cpu(cfg.MODEL.DEVICE):
            super().__init__(cfg)
        set_precision(self._trainer, cfg)
        self._loss_scale = LossScale(self._trainer)
        # Whoever builds models or hooks without asking ours owes the key and the checkpoints nevertheless.
        build_norm_eps(getattr(self.model, "module", self.model), cfg)
        if type(self.checkpointer) is DetectionCheckpointer:
            self._save_by(TrainerCheckpointer(self))
        if not hasattr(self.data_loader, "go_to"):
            logger.warning(
                "the training loader is a %s, which has no position: a resumed run takes its data from their start "
                "again (scaleprior.d2.Trainer.build_train_loader(cfg, mapper=...) goes on in them)",
                type(self.data_loader).__name__,
            )

    @classmethod
    def _overrides(cls, name: str) -> bool:
        return getattr(getattr(cls, name), "__func__", None) is not getattr(Trainer, name).__func__

    def _save_by(self, checkpointer: DetectionCheckpointer) -> None:
        for hook in self._hooks:
            if isinstance(hook, hooks.PeriodicCheckpointer) and hook.checkpointer is self.checkpointer:
                hook.checkpointer = checkpointer
        self.checkpointer = checkpointer

    def resume_or_load(self, resume: bool = True) -> None:
        """As ``DefaultTrainer``, with a loader and a learning rate that go on where the checkpoint was written.

        Raises:
            UserError: ``MODEL.WEIGHTS`` is not there, does not fit, or is a whole detector and SCALEPRIOR.START does
                not ask for one.
        """
        super().resume_or_load(resume)
        if self.start_iter:
            self._follow_schedule()
        if hasattr(self.data_loader, "go_to"):
            self.data_loader.go_to(self.start_iter)
        if resume and comm.is_main_process():
            # In place: the writer has the file open. An evaluation may stand behind a later step.
            cut_lines(Path(self.cfg.OUTPUT_DIR) / "metrics.json", "iteration", self.start_iter - 1, in_place=True)

    def _follow_schedule(self) -> None:
        """Let the first step run at its rate by this schedule; the optimiser brings that of the one it was saved under.

        Only Detectron2's own schedulers say what the rate of a step is, whatever came before.
        """
        if isinstance(self.scheduler, LRMultiplier) and self.scheduler.last_epoch == self.start_iter:
            for group, rate in zip(self.optimizer.param_groups, self.scheduler.get_lr()):
                group["lr"] = rate

    def train(self) -> Any:
        """Run the steps that are left.

        Raises:
            FailureError: a loss that is not finite; names the step and the images. A file that cannot be written.
            UserError: an image that cannot be used; the steps before it are saved.
            Interrupted: SIGTERM came; the state is saved.
        """
        with catch_sigterm() as self._stop:
            if self.start_iter >= self.max_iter:  # killed between the last periodic checkpoint and the final one
                self.checkpointer.save("model_final", iteration=self.max_iter - 1)
            try:
                return super().train()
            except UserError as e:
                done = self._save_at(e)
                if not done:
                    raise
                raise with_way_on(e, done) from e
            except OSError as e:
                said = e.strerror or str(e)
                raise FailureError(
                    f"step {self.iter}: {said}{f': {e.filename}' if e.filename else ''}",
                    hint=f"free space in OUTPUT_DIR and go on with {parameter('resume', True)}",
                ) from e
            except FloatingPointError as e:
                dtype, batch = getattr(self._trainer, "precision", None), getattr(self.data_loader, "last", None)
                overflow, hint = overflow_in(self.model, dtype, batch, self.iter)
                raise FailureError(
                    f"step {self.iter}: {' '.join(str(e).split())}{_images(self.data_loader)}{overflow}",
                    hint=hint or "lower SOLVER.BASE_LR, lengthen the warmup or clip gradients (SOLVER.CLIP_GRADIENTS)",
                ) from e

    def _save_at(self, error: UserError) -> int:
        """Save the steps that are done where the data of the next one, or of an evaluation, cannot be used.

        Returns:
            How many they are; 0 where nothing was to be saved.
        """
        done = self._done
        if not self.start_iter < done < self.max_iter:  # on the disk already, or nothing was trained yet
            return 0
        self.iter = self._trainer.iter = done - 1  # both stand in the checkpoint, as the last step that is done
        self.checkpointer.save(f"model_{done - 1:07d}", iteration=done - 1)
        if isinstance(error, UnusableImage):  # else the first to leave would have the others ended while they save
            comm.synchronize()
        return done

    def before_step(self) -> None:
        """Detectron2's; torch's generators are seeded first, so that what a step samples does not depend on the steps
        before."""
        torch.manual_seed(step_seed(run_seed(self.cfg), comm.get_rank(), self.iter))
        super().before_step()

    def after_step(self) -> None:
        """Detectron2's; then the progress, and after SIGTERM the end of the run.

        These are no hooks: whoever overrides ``build_hooks`` counts on the order of Detectron2's, and what is saved
        here has to have seen the whole step, all hooks included.
        """
        self._done = self.iter + 1
        # One exchange a step, before the hooks, of which the main process' saves alone. All processes stop after the
        # same step, or none could finish it.
        said = cast(
            "list[tuple[bool, dict[str, float]]]", comm.all_gather((self._stop.requested, normalizers(self.model)))
        )
        self._normalizers = [kept for _, kept in said if kept]
        super().after_step()
        self._loss_scale.look(self.iter)
        if self.progress is not None:
            loss = self.storage.latest().get("total_loss", (math.nan, 0))[0]
            self.progress(self._done, self.max_iter, {"loss": float(loss)})
        # alone, this process may also heed what came while the hooks ran
        requested = any(stop for stop, _ in said) or (len(said) == 1 and self._stop.requested)
        if requested and self._done < self.max_iter:
            self.checkpointer.save(f"model_{self.iter:07d}", iteration=self.iter)
            raise Interrupted(
                f"stopped by SIGTERM after step {self._done} of {self.max_iter}",
                hint=f"run again with {parameter('resume', True)} to go on",
            )

    def state_dict(self) -> dict[str, Any]:
        """Detectron2's, with what its dense detectors remember of earlier steps and leave out of their own."""
        return super().state_dict() | ({NORMALIZERS: self._normalizers} if self._normalizers else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See :meth:`state_dict`; Detectron2's own checkpoints lack a part of it."""
        super().load_state_dict(with_scaler(state_dict, self._trainer))
        set_normalizers(self.model, state_dict.get(NORMALIZERS, []))

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's own, in its order; called once, at the end of ``DefaultTrainer.__init__``."""
        # Before the hooks are made, because the one that saves holds on to the checkpointer.
        self.checkpointer = TrainerCheckpointer(self)
        found = super().build_hooks()
        for hook in found:
            if isinstance(hook, hooks.PeriodicCheckpointer):
                # 0 is none but the final one; fvcore would divide by it.
                hook.period = self.cfg.SOLVER.CHECKPOINT_PERIOD or self.cfg.SOLVER.MAX_ITER + 1
        return evaluation_hooks(found, self)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Detectron2's, whose trunk's norms add what MODEL.NORM_EPS says."""
        return build_norm_eps(super().build_model(cfg), cfg)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, mapper: Callable[[dict[str, Any]], Any] | None = None) -> Iterable[Any]:
        """See ``loader.py``; may be overridden to return any loader.

        Args:
            mapper: a dict of the data set -> what the model takes, or None to pass over it; by default
                ``DatasetMapper(cfg, is_train=True)``.
        """
        return ResumableLoader.from_config(with_sets(cfg, cfg.DATASETS.TRAIN), mapper)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> TestLoader:
        """Detectron2's, whose errors name the image."""
        cfg = with_sets(cfg, [dataset_name])
        make_loader: Any = build_detection_test_loader  # its decorator hangs the reader of configs on it
        found = make_loader.from_config(cfg, dataset_name)
        mapper = with_store(found["mapper"], found["dataset"], cfg)
        found["mapper"] = NamedMapper(mapper, strict=cfg.SCALEPRIOR.STRICT_IMAGES)
        return TestLoader(make_loader(**found))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
        """See ``evaluation/kinds.py``.

        Raises:
            UserError: a set whose evaluator type Detectron2's own tool does not know either.
        """
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        return build_evaluator(cfg, dataset_name, folder)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> Any:
        """Detectron2's; of the model that is saved, also where several processes share out a set."""
        with as_saved(model):
            return super().test(cfg, model, evaluators)

    @classmethod
    def test_with_TTA(cls, cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
        """As Detectron2's own tool: what :meth:`test` finds with ``TEST.AUG``, with ``_TTA`` behind every name."""
        folder = os.path.join(cfg.OUTPUT_DIR, AUGMENTED_FOLDER)
        evaluators = [cls.build_evaluator(cfg, name, os.path.join(folder, name)) for name in cfg.DATASETS.TEST]
        found: Any = cls.test(cfg, augmented_model(cfg, model), evaluators)
        return {name + SUFFIX: numbers for name, numbers in found.items()}


def _images(loader: Any) -> str:
    """Those of the last batch, where the loader knows them."""
    last = getattr(loader, "last", None)
    return f"; images {', '.join(str(image.get('file_name')) for image in last)}" if last else ""
