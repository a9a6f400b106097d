"""A fine-tuning config for the processes that there are: their shares of a batch, Detectron2's scaling to their number.

``SOLVER.IMS_PER_BATCH`` is the batch of all processes together. ``SOLVER.REFERENCE_WORLD_SIZE`` R says for how many a
config is meant; on P of them batch and learning rate are P / R times as large (Goyal et al. 2017, arXiv 1706.02677),
and warmup, steps and periods R / P times as long: ``DefaultTrainer.auto_scale_workers`` of Detectron2.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from scaleprior.errors import UserError
from scaleprior.wording import counted, parameter

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["check_reference", "check_share", "other_schedule_told", "scaled"]

logger = logging.getLogger(__name__)


def check_share(cfg: CfgNode, processes: int) -> None:
    """Refuse a batch of which ``processes`` would not have equal shares.

    Raises:
        UserError: names both numbers.
    """
    batch = cfg.SOLVER.IMS_PER_BATCH
    if batch % processes:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH is {batch}, the images of all processes together, with {processes} processes",
            hint=f"give a multiple of {processes}, or take another number of processes",
        )


def check_reference(cfg: CfgNode) -> None:
    """Refuse a SOLVER.REFERENCE_WORLD_SIZE that shares out no batch.

    Raises:
        UserError: names the key and the batch.
    """
    meant, batch = cfg.SOLVER.REFERENCE_WORLD_SIZE, cfg.SOLVER.IMS_PER_BATCH
    if meant < 0 or (meant and batch % meant):
        raise UserError(
            f"SOLVER.REFERENCE_WORLD_SIZE is {meant}, SOLVER.IMS_PER_BATCH {batch}",
            hint="give the number of GPUs that the config is meant for, which divides the batch; 0 scales nothing",
        )


def scaled(cfg: CfgNode, processes: int) -> CfgNode:
    """``cfg`` for ``processes``, where it says that it is meant for another number; ``cfg`` itself otherwise.

    The key then says for how many it is now: what is recorded is what ran, and scaling twice is scaling once.

    Raises:
        UserError: see :func:`check_reference`.
    """
    check_reference(cfg)
    meant = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if meant in (0, processes):
        return cfg
    cfg = cfg.clone()
    frozen = cfg.is_frozen()
    cfg.defrost()
    solver, factor = cfg.SOLVER, processes / meant
    solver.IMS_PER_BATCH = round(solver.IMS_PER_BATCH * factor)
    solver.BASE_LR *= factor
    for key in ("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD"):
        solver[key] = round(solver[key] / factor)
    solver.STEPS = tuple(round(step / factor) for step in solver.STEPS)
    solver.REFERENCE_WORLD_SIZE = processes
    if frozen:
        cfg.freeze()
    return cfg


@contextlib.contextmanager
def other_schedule_told(cfg: CfgNode, out: Path, *, now: int, then: int | None) -> Iterator[None]:
    """Around holding a run against the one in ``out``.

    Args:
        cfg: scaled to the processes ``now``. then: processes of the run in the folder; None where nobody knows.

    Raises:
        UserError: another schedule, by SOLVER.REFERENCE_WORLD_SIZE on another number of processes.
    """
    try:
        yield
    except UserError as e:
        if then in (None, now) or not cfg.SOLVER.REFERENCE_WORLD_SIZE:
            raise
        raise UserError(
            f"{out} holds a run of {counted(then, 'processes')}; on {now} SOLVER.REFERENCE_WORLD_SIZE gives it another "
            "batch, learning rate and number of steps",
            hint=f"resume with {parameter('processes', then, option='num_gpus')}, or choose another output folder",
        ) from e
