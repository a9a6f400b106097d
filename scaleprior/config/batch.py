"""How many images a pretraining step has and at which rate it learns, once it is known how many processes share it.

B images a step, P processes. ``PRETRAIN.BATCH_PER_PROCESS`` b makes B = b P; ``PRETRAIN.REFERENCE_BATCH`` R says for
which B the rate was chosen, and scales it to the B there is: linearly for SGD (Goyal et al. 2017, arXiv 1706.02677,
section 2.1); by the square root for RMSProp and AdamW, which divide by the size of the gradient (Malladi et al. 2022,
arXiv 2205.10287), and for LAMB (You et al. 2020, arXiv 1904.00962). EfficientNet's published code scales RMSProp
linearly; who wants that gives the rate.

Both keys are settled once, before anything is planned, and are 0 afterwards: what is written, hashed and logged is the
batch and the rate that ran, and settling twice is settling once.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["log_settled", "rate_factor", "settled"]

logger = logging.getLogger(__name__)

_POWERS = {"sgd": 1.0, "rmsprop": 0.5, "adamw": 0.5, "lamb": 0.5}


def rate_factor(optimizer: str, batch: int, reference: int) -> float:
    """What a rate chosen for ``reference`` images a step is multiplied by for ``batch``.

    Args:
        optimizer: a value of PRETRAIN.OPTIMIZER.NAME; another than its legal ones, which are refused elsewhere, as sgd.
    """
    return (batch / reference) ** _POWERS.get(optimizer, 1.0)


def settled(cfg: CfgNode, processes: int = 1) -> CfgNode:
    """``cfg`` with the batch and the rate that ``processes`` make of it; ``cfg`` itself where it has them already."""
    node = cfg.PRETRAIN
    if not node.BATCH_PER_PROCESS and not node.REFERENCE_BATCH:
        return cfg
    cfg = cfg.clone()
    frozen = cfg.is_frozen()
    cfg.defrost()
    node = cfg.PRETRAIN
    if node.BATCH_PER_PROCESS:
        node.BATCH_SIZE = node.BATCH_PER_PROCESS * processes
    if node.REFERENCE_BATCH:
        node.OPTIMIZER.BASE_LR *= rate_factor(node.OPTIMIZER.NAME, node.BATCH_SIZE, node.REFERENCE_BATCH)
    node.BATCH_PER_PROCESS = node.REFERENCE_BATCH = 0
    if frozen:
        cfg.freeze()
    return cfg


def log_settled(before: CfgNode, after: CfgNode, processes: int) -> None:
    """One line on what :func:`settled` made of the batch and the rate, where it made anything."""
    if after is before:
        return
    was, now = before.PRETRAIN, after.PRETRAIN
    batch = f"{was.BATCH_PER_PROCESS} on each of {processes} processes" if was.BATCH_PER_PROCESS else "as it is set"
    rate = f"{was.OPTIMIZER.BASE_LR:g} for {was.REFERENCE_BATCH}" if was.REFERENCE_BATCH else "as it is set"
    logger.info("BATCH_SIZE %d (%s), BASE_LR %g (%s)", now.BATCH_SIZE, batch, now.OPTIMIZER.BASE_LR, rate)
