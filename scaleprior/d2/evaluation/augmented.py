"""Test-time augmentation (``TEST.AUG``), as Detectron2's own ``tools/train_net.py`` evaluates with it, at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, GeneralizedRCNNWithTTA
from torch import nn

from scaleprior.d2.evaluation.kinds import evaluator_type, parts_of
from scaleprior.errors import UserError

__all__ = [
    "AUGMENTED_FOLDER", "SUFFIX", "augmented_model", "check_augmentation", "split_augmented",
]  # fmt: skip

SUFFIX = "_TTA"
"""What Detectron2's tool appends to the name of a task, or with several sets to that of the set."""

AUGMENTED_FOLDER = "inference_TTA"
"""Where its predictions are written, as Detectron2's tool does it."""


def check_augmentation(cfg: CfgNode, names: Iterable[str]) -> None:
    """Refuse ``TEST.AUG.ENABLED`` where Detectron2's ``GeneralizedRCNNWithTTA`` could not honour it.

    Args:
        names: registered sets to evaluate on.

    Raises:
        UserError: names the key that it contradicts.
    """
    if not cfg.TEST.AUG.ENABLED or not cfg.DATASETS.TEST:
        return
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    for contradicts, said in (
        (not (isinstance(architecture, type) and issubclass(architecture, GeneralizedRCNN)), "MODEL.META_ARCHITECTURE"),
        (cfg.MODEL.KEYPOINT_ON, "MODEL.KEYPOINT_ON"),
        (cfg.MODEL.LOAD_PROPOSALS, "MODEL.LOAD_PROPOSALS"),
    ):
        if contradicts:
            value = cfg.MODEL[said.removeprefix("MODEL.")]
            raise UserError(
                f"TEST.AUG.ENABLED is True with {said} {value}; Detectron2 augments R-CNNs of boxes and masks only",
                hint="use TEST.AUG.ENABLED False",
            )
    for name in names:
        if not all("instances" in part.reads for part in parts_of(name)):
            raise UserError(
                f"TEST.AUG.ENABLED is True with data set {name} of the evaluator type {evaluator_type(name)!r}; "
                "Detectron2 augments for instances only",
                hint="use TEST.AUG.ENABLED False",
            )


def augmented_model(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """``model`` as Detectron2 augments it: called alike, it puts out the merged instances of all sizes and flips."""
    make: Any = GeneralizedRCNNWithTTA
    return make(cfg, model)


def split_augmented(found: Mapping[str, Any], name: str, *, alone: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ``test`` and ``test_with_TTA`` found on the set ``name``, apart; {} for the latter where it was not asked.

    Args:
        alone: it is the only set, so that Detectron2 leaves its name out.
    """
    if not alone:
        return dict(found[name]), dict(found.get(name + SUFFIX, {}))
    plain = {task: numbers for task, numbers in found.items() if not task.endswith(SUFFIX)}
    return plain, {task.removesuffix(SUFFIX): found[task] for task in found if task not in plain}
