"""Detectron2's ``DefaultTrainer`` for ScalePrior's backbones: seeded, resumable to the bit, evaluated on COCO.

What it adds to Detectron2's own, each as a hook or an override that Detectron2 provides for: a loader with a position
(``loader.py``), one seed a step, checkpoints that are complete under their final name, a loss that is not finite named
with its images, and SIGTERM that saves.
"""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import weakref
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import nn

from scaleprior.backbones.canonical import is_detector_state
from scaleprior.config.seed import run_seed
from scaleprior.d2.checkpoint import EXTRA_KEY
from scaleprior.d2.checks import check_solver
from scaleprior.d2.evaluation.checks import check_evaluation
from scaleprior.d2.evaluation.kinds import build_evaluator
from scaleprior.d2.loader import NamedMapper, ResumableLoader, TestLoader, UnusableImage
from scaleprior.d2.norm_eps import build_norm_eps
from scaleprior.detect.trained import TrainedDetector
from scaleprior.errors import FailureError, ScalePriorError, UserError
from scaleprior.files import atomic_path, write_text
from scaleprior.progress import ProgressFn
from scaleprior.training.metrics_file import cut_lines
from scaleprior.training.run_folder import with_way_on
from scaleprior.training.seeds import step_seed
from scaleprior.training.signals import Interrupted, StopRequest, catch_sigterm
from scaleprior.wording import parameter

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Use it as ``DefaultTrainer``: ``Trainer(cfg)``, ``resume_or_load(resume)``, ``train()``.

    Attributes:
        keep_checkpoints: newest periodic checkpoints to keep; None = all, as Detectron2 does.
        trained: what the detector will say of itself; goes into every checkpoint under ``EXTRA_KEY``. None = nothing.
        progress: called once a step with (steps done, all steps, {"loss": ...}).
    """

    keep_checkpoints: int | None = None
    data_loader: ResumableLoader  # Detectron2's property

    def __init__(self, cfg: CfgNode) -> None:
        check_solver(cfg)
        if (
            getattr(type(self).build_evaluator, "__func__", None) is Trainer.build_evaluator.__func__
        ):  # no subclass' own
            check_evaluation(cfg)
        self.trained: TrainedDetector | None = None
        self.progress: ProgressFn | None = None
        self._stop = StopRequest()
        super().__init__(cfg)

    def resume_or_load(self, resume: bool = True) -> None:
        """As ``DefaultTrainer``, with a loader that goes on where the checkpoint was written.

        Raises:
            UserError: ``MODEL.WEIGHTS`` is not there, does not fit, or is a whole detector.
        """
        super().resume_or_load(resume)
        self.data_loader.go_to(self.start_iter)
        if resume and comm.is_main_process():
            # In place: the writer has the file open. An evaluation may stand behind a later step.
            cut_lines(Path(self.cfg.OUTPUT_DIR) / "metrics.json", "iteration", self.start_iter - 1, in_place=True)

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
                names = ", ".join(str(image.get("file_name")) for image in self.data_loader.last)
                raise FailureError(
                    f"step {self.iter}: {' '.join(str(e).split())}; images {names}",
                    hint="lower SOLVER.BASE_LR, lengthen the warmup or clip gradients (SOLVER.CLIP_GRADIENTS)",
                ) from e

    def _save_at(self, error: UserError) -> int:
        """Save the steps that are done where the data of the next one, or of an evaluation, cannot be used.

        Returns:
            How many they are; 0 where nothing was to be saved.
        """
        done = self.iter if isinstance(error, UnusableImage) else self.iter + 1
        if not self.start_iter < done < self.max_iter:  # on the disk already, or nothing was trained yet
            return 0
        self.iter = self._trainer.iter = done - 1  # both stand in the checkpoint, as the last step that is done
        self.checkpointer.save(f"model_{done - 1:07d}", iteration=done - 1)
        if isinstance(error, UnusableImage):  # else the first to leave would have the others ended while they save
            comm.synchronize()
        return done

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's own, with two of ours; called once, at the end of ``DefaultTrainer.__init__``."""
        # Before the hooks are made, because the one that saves holds on to the checkpointer.
        self.checkpointer = _Checkpointer(self)
        found = super().build_hooks()
        for hook in found:
            if isinstance(hook, hooks.PeriodicCheckpointer):
                hook.max_to_keep = self.keep_checkpoints
                # 0 is none but the final one; fvcore would divide by it.
                hook.period = self.cfg.SOLVER.CHECKPOINT_PERIOD or self.cfg.SOLVER.MAX_ITER + 1
        # The stop comes last: what is saved then has seen the whole step, its learning rate included.
        return [_SeedSteps(run_seed(self.cfg)), *found, _StopOnRequest()]

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Detectron2's, whose trunk's norms add what MODEL.NORM_EPS says."""
        return build_norm_eps(super().build_model(cfg), cfg)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> ResumableLoader:
        """See ``loader.py``."""
        return ResumableLoader.from_config(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> TestLoader:
        """Detectron2's, whose errors name the image."""
        # Both take a config in place of their arguments, which no checker sees.
        make_mapper: Any = DatasetMapper
        make_loader: Any = build_detection_test_loader
        mapper = NamedMapper(make_mapper(cfg, is_train=False), strict=cfg.SCALEPRIOR.STRICT_IMAGES)
        return TestLoader(make_loader(cfg, dataset_name, mapper=mapper))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
        """See ``evaluation/kinds.py``.

        Raises:
            UserError: a set whose evaluator type Detectron2's own tool does not know either.
        """
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        return build_evaluator(cfg, dataset_name, folder)


class _Checkpointer(DetectionCheckpointer):
    """Files that are complete or absent, and the trainer's ``trained`` in them; refuses a detector for a backbone."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer._trainer.model, trainer.cfg.OUTPUT_DIR, trainer=weakref.proxy(trainer))
        self._trainer = weakref.proxy(trainer)
        self._resuming = False

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        self._resuming = resume and self.has_checkpoint()
        return super().resume_or_load(path, resume=resume)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            return super().load(path, *args, **kwargs)
        except ScalePriorError:
            raise
        except (OSError, AssertionError, RuntimeError, EOFError, pickle.UnpicklingError) as e:
            raise UserError(
                f"weights {path} cannot be read: {e}", hint="check the path; get a damaged file again"
            ) from e

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if not self._resuming and is_detector_state(checkpoint["model"]):
            raise UserError(
                f"MODEL.WEIGHTS {self._trainer.cfg.MODEL.WEIGHTS} is a trained detector, not a backbone",
                hint="`scaleprior backbone convert` cuts the backbone out; "
                f"{parameter('eval_only', True)} evaluates the detector",
            )
        return super()._load_model(checkpoint)

    def save(self, name: str, **kwargs: Any) -> None:
        if not self.save_dir or not self.save_to_disk:
            return
        state: dict[str, Any] = {"model": self.model.state_dict(), **kwargs}
        if self._trainer.trained is not None:
            state[EXTRA_KEY] = json.dumps(self._trainer.trained.to_dict())
        state.update({key: part.state_dict() for key, part in self.checkpointables.items()})
        target = Path(self.save_dir) / f"{name}.pth"
        logger.info("Saving checkpoint to %s", target)
        # The last one is what people keep: it alone is flushed to the disk.
        try:
            with atomic_path(target, durable=name.endswith("_final")) as temporary:
                torch.save(state, temporary)
        except RuntimeError as e:  # what torch makes of a full disk
            if isinstance(e, ScalePriorError):
                raise
            raise FailureError(
                f"cannot write {target}: {' '.join(str(e).split())[:120]}",
                hint=f"the disk may be full: free space and go on with {parameter('resume', True)}",
            ) from e
        self.tag_last_checkpoint(target.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        write_text(Path(self.save_dir) / "last_checkpoint", last_filename_basename, durable=False)


class _SeedSteps(HookBase):
    """Seeds torch's generators before every step, so that what a step samples does not depend on the steps before."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def before_step(self) -> None:
        torch.manual_seed(step_seed(self._seed, comm.get_rank(), self.trainer.iter))


class _StopOnRequest(HookBase):
    """Shows the progress, and ends the run after SIGTERM with its state saved."""

    def after_step(self) -> None:
        trainer, done = self.trainer, self.trainer.iter + 1
        assert isinstance(trainer, Trainer)
        if trainer.progress is not None:
            loss = trainer.storage.latest().get("total_loss", (math.nan, 0))[0]
            trainer.progress(done, trainer.max_iter, {"loss": float(loss)})
        requested = trainer._stop.requested
        if comm.get_world_size() > 1:  # all processes stop after the same step, or none could finish it
            requested = any(comm.all_gather(requested))
        if requested and done < trainer.max_iter:
            trainer.checkpointer.save(f"model_{trainer.iter:07d}", iteration=trainer.iter)
            raise Interrupted(
                f"stopped by SIGTERM after step {done} of {trainer.max_iter}",
                hint=f"run again with {parameter('resume', True)} to go on",
            )
