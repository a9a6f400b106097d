"""What ``SEED`` means: the one place that says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["run_seed"]


def run_seed(cfg: CfgNode) -> int:
    """``cfg.SEED``, where below 0 is 0: a run is repeatable unless one asks for another seed.

    Detectron2's comment promises a random seed below 0; its samplers go by the number all the same. ``load_config``
    gives configs that are resolved in this way; those that a program of Detectron2's made are not.
    """
    return max(cfg.SEED, 0)
