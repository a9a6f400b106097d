"""What RetinaNet and FCOS divide their losses by: a mean over the steps that their state dict leaves out.

Detectron2 begins it again at 100 (FCOS: 300) objects in every process that resumes, so that a resumed run is another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.utils import comm
from torch import nn

__all__ = ["NORMALIZERS", "normalizers", "set_normalizers"]

NORMALIZERS = "loss_normalizers"
"""Of a trainer's state: for every process what :func:`normalizers` gives."""
_ATTRIBUTE = "loss_normalizer"  # which Detectron2 makes at the first step


def normalizers(model: nn.Module) -> dict[str, float]:
    """This process' mean, by the name of the dense detector within ``model``; without those that made no step."""
    found = {name: vars(detector).get(_ATTRIBUTE) for name, detector in _detectors(model)}
    return {name: float(value) for name, value in found.items() if value is not None}


def set_normalizers(model: nn.Module, of_processes: Sequence[Mapping[str, float]]) -> None:
    """Go on with what this process had; with the main one's where there were fewer.

    Args:
        of_processes: empty where nobody kept any.
    """
    if not of_processes:
        return
    rank = comm.get_rank()
    own = of_processes[rank if rank < len(of_processes) else 0]
    for name, detector in _detectors(model):
        if name in own:
            setattr(detector, _ATTRIBUTE, own[name])


def _detectors(model: nn.Module) -> list[tuple[str, DenseDetector]]:
    model = getattr(model, "module", model)  # of DDP, which has no part in names
    return [(name, module) for name, module in model.named_modules() if isinstance(module, DenseDetector)]
