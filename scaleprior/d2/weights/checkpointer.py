"""What saves and loads for ``d2.Trainer``: files that survive a power cut, and the newest whole one to go on from."""

from __future__ import annotations

import json
import logging
import pickle
import weakref
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm

from scaleprior.backbones.canonical import is_detector_state
from scaleprior.d2.weights.checkpoint import EXTRA_KEY
from scaleprior.d2.weights.saved import POINTER, checkpoint_in, damage_to, numbered_checkpoints
from scaleprior.d2.weights.start_detector import require_weights, tell_of_fresh
from scaleprior.detect.plan import starts_from_detector
from scaleprior.errors import FailureError, ScalePriorError, UserError
from scaleprior.files import atomic_path, write_text
from scaleprior.training.memory import is_out_of_memory
from scaleprior.wording import either, flag, parameter

__all__ = ["TrainerCheckpointer"]

# Below Detectron2's own logger, so that a program of the user's, which set up that one, shows it.
logger = logging.getLogger("detectron2.scaleprior")

_EVALUATION = either("Trainer.test", flag("eval_only"))
_KEYS_FIRST = either(" (a key that add_scaleprior_config(cfg) knows)", "")


class TrainerCheckpointer(DetectionCheckpointer):
    """Files that are complete or absent, and the trainer's ``trained`` in them; refuses a detector for a backbone.

    Args:
        trainer: a ``d2.Trainer``, which owns this.
    """

    def __init__(self, trainer: Any) -> None:
        super().__init__(trainer._trainer.model, trainer.cfg.OUTPUT_DIR, trainer=weakref.proxy(trainer))
        self._trainer = weakref.proxy(trainer)
        self._resuming = False
        self._found: str | None = None  # the checkpoint to go on from, "" for none; None before anybody looked

    def has_checkpoint(self) -> bool:
        return super().has_checkpoint() if self._found is None else bool(self._found)

    def get_checkpoint_file(self) -> str:
        return super().get_checkpoint_file() if self._found is None else self._found

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Detectron2's; goes on from the newest checkpoint that is whole, and begins anew where none is."""
        if resume and self.save_dir:
            trained = self._trainer.trained
            fingerprint = None if trained is None else trained.fingerprint
            self._found = str(checkpoint_in(Path(self.save_dir), fingerprint, tell=comm.is_main_process()) or "")
        self._resuming = resume and self.has_checkpoint()
        if not self._resuming and starts_from_detector(self._trainer.cfg):
            require_weights(path)
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
        if self._resuming:
            return super()._load_model(checkpoint)
        cfg, is_detector = self._trainer.cfg, is_detector_state(checkpoint["model"])
        if not starts_from_detector(cfg):
            if is_detector:
                raise UserError(
                    f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS} is a trained detector, not a backbone",
                    hint=f"SCALEPRIOR.START detector goes on from all of it{_KEYS_FIRST}; `scaleprior backbone "
                    f"convert` cuts the backbone out; {_EVALUATION} evaluates the detector",
                )
            return super()._load_model(checkpoint)
        if not is_detector:
            raise UserError(
                f"MODEL.WEIGHTS {cfg.MODEL.WEIGHTS} is no trained detector, and SCALEPRIOR.START is 'detector'",
                hint="leave SCALEPRIOR.START out to start from a backbone",
            )
        incompatible = super()._load_model(checkpoint)
        tell_of_fresh(self.model, incompatible.missing_keys, cfg.MODEL.WEIGHTS)
        return incompatible

    def save(self, name: str, **kwargs: Any) -> None:
        if not self.save_dir or not self.save_to_disk:
            return
        state: dict[str, Any] = {"model": self.model.state_dict(), **kwargs}
        if self._trainer.trained is not None:
            state[EXTRA_KEY] = json.dumps(self._trainer.trained.to_dict())
        state.update({key: part.state_dict() for key, part in self.checkpointables.items()})
        target = Path(self.save_dir) / f"{name}.pth"
        logger.info("Saving checkpoint to %s", target)
        while True:
            try:
                _write(state, target)
                break
            except FailureError:
                if not self._give_way():
                    raise
        self._found = None
        self.tag_last_checkpoint(target.name)
        self._remove_old(target)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        write_text(Path(self.save_dir) / POINTER, last_filename_basename)

    def _give_way(self) -> bool:
        """Remove the oldest checkpoint where the run keeps a few and the newest is whole; whether one was removed."""
        known = list(numbered_checkpoints(Path(self.save_dir)))
        if self._trainer.keep_checkpoints is None or len(known) < 2 or damage_to(known[0]):
            return False
        logger.warning("removing %s, an older checkpoint: the disk has no room for the next", known[-1])
        known[-1].unlink()
        return True

    def _remove_old(self, newest: Path) -> None:
        """What is beyond those to keep, and what is of later steps, of a course that was given up."""
        known, keep = numbered_checkpoints(Path(self.save_dir)), self._trainer.keep_checkpoints
        if keep is None or newest not in known:
            return
        kept = [path for path, step in known.items() if step <= known[newest]][:keep]
        for path in known.keys() - set(kept):
            path.unlink(missing_ok=True)


def _write(state: dict[str, Any], target: Path) -> None:
    """Raises FailureError: it cannot be written."""
    try:
        with atomic_path(target) as temporary:
            torch.save(state, temporary)
    except RuntimeError as e:  # what torch makes of a full disk
        if isinstance(e, ScalePriorError) or is_out_of_memory(e):
            raise
        raise FailureError(
            f"cannot write {target}: {' '.join(str(e).split())[:120]}",
            hint=f"the disk may be full: free space and go on with {parameter('resume', True)}",
        ) from e
