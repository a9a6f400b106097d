"""Whose folder OUTPUT_DIR is: looked at first, so that a run that is refused there leaves every byte as it was."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

from detectron2.utils import comm

from scaleprior.backbones.readers.containers import open_container
from scaleprior.d2.plan import Plan, read_trained
from scaleprior.d2.weights.saved import POINTER, checkpoint_in, fingerprint_in
from scaleprior.detect.identity import tuning_of
from scaleprior.detect.trained import TrainedDetector
from scaleprior.detect.workers import other_schedule_told
from scaleprior.errors import UserError
from scaleprior.training.run_folder import RUN_FILE, RunFolder
from scaleprior.wording import counted, parameter

__all__ = ["MODEL_FILE", "POINTER", "claim"]

logger = logging.getLogger(__name__)

MODEL_FILE = "model_final.pth"


def claim(plan: Plan, out: Path, *, resume: bool, extend: bool = False) -> tuple[TrainedDetector, bool]:
    """Write ``run.json``: from here on the folder is the run's, and others are refused there.

    Where a run starts anew, an earlier one's checkpoints are left but no longer pointed to: if this run is killed
    before its first checkpoint, resuming it must not find them.

    Args:
        extend: go on with a run that has a shorter schedule.

    Returns:
        What the detector will say of itself, with the history of a run that was extended; and whether ``out`` holds
        this very run, finished: nothing is written then.

    Raises:
        UserError: another run is to be resumed, or one that is not ours; nothing is written then, either.
    """
    assert plan.trained is not None, "a plan of an evaluation claims nothing"
    identity = {**plan.trained.to_dict(), "processes": comm.get_world_size()}
    parts = "config, backbone or data"
    folder = RunFolder(out, identity, parts=parts, schedule=plan.schedule, made_of=plan.made_of)
    pointer, model = out / POINTER, out / MODEL_FILE
    if not (resume or extend):
        pointer.unlink(missing_ok=True)
        folder.write()
        return plan.trained, False
    with other_schedule_told(plan.cfg, out, now=comm.get_world_size(), then=_processes_of(out)):
        known = folder.resumed(extend=extend, steps_done=lambda: _steps_done(out, folder))
    if known is None:
        named = checkpoint_in(out, plan.trained.fingerprint)
        if named is not None and fingerprint_in(named) == plan.trained.fingerprint:
            known = folder  # run.json is damaged or gone, and the checkpoint says that it is of this run
        elif pointer.is_file():
            raise UserError(
                f"{out} holds a run that ScalePrior did not start ({RUN_FILE} is missing or damaged)",
                hint=f"choose another output folder, or start anew without {parameter('resume', True)}",
            )
        else:
            folder.write()
            return plan.trained, False
    trained = replace(
        plan.trained,
        fingerprint=known.fingerprint,
        extended=known.history,
        tuning=tuning_of(plan.cfg, known.history),
    )
    # The file may be that of an earlier run in the same folder.
    before = read_trained(model) if model.is_file() else None
    if before is not None and before.fingerprint == known.fingerprint:
        return trained, True
    if pointer.is_file():
        known.warn_of_other_version()
    _tell_of_processes(out)
    # what a comparison reads in the detector stands in the folder, too
    replace(known, identity={**identity, "tuning": dict(trained.tuning)}).write()
    return trained, False


def _tell_of_processes(out: Path) -> None:
    """Say what another number of processes makes of the steps to come."""
    now, then = comm.get_world_size(), _processes_of(out)
    if then not in (None, now):
        logger.warning(
            "%s was trained by %s and goes on with %d: a batch is as large as it was, and holds other images",
            out,
            counted(then, "processes"),
            now,
        )


def _processes_of(out: Path) -> int | None:
    """How many processes trained the run in ``out`` last; None where nobody knows."""
    try:
        found = json.loads((out / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the folder's reader says what is wrong with it
        return None
    number = found.get("processes") if isinstance(found, dict) else None
    return number if isinstance(number, int) else None


def _steps_done(out: Path, folder: RunFolder) -> int:
    """Of the checkpoint to go on from.

    Raises:
        UserError: nothing says which that is.
    """
    before = (folder.read() or {}).get("fingerprint")
    checkpoint = checkpoint_in(out, before if isinstance(before, str) else None)
    if checkpoint is not None:
        return open_container(checkpoint).tree["iteration"] + 1
    if (out / MODEL_FILE).is_file() and not (out / POINTER).is_file():
        raise UserError(
            f"{out} has a {MODEL_FILE} but no {POINTER}, which says where to go on",
            hint=f"write {MODEL_FILE} into {out / POINTER}, or start anew in another folder",
        )
    return 0
