"""SyncBN: BN whose statistics are those of the images, or the regions, of all processes.

A detector is built with BN where a NORM key says SyncBN, which in one process is the same, and so are its files. Before
several processes train it, the norms of those parts are exchanged for ones that add up over all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from scaleprior.detect.faster_rcnn.model import Detector
from scaleprior.detect.faster_rcnn.parts.backbone import PyramidBackbone
from scaleprior.detect.faster_rcnn.parts.res5_head import Res5Head
from scaleprior.training.processes import ProcessGroup
from scaleprior.training.sync_norms import share_statistics

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["share_norms", "uses_own_statistics"]


def share_norms(model: Detector, cfg: CfgNode, processes: ProcessGroup) -> None:
    """Let the norms of ``model`` that are SyncBN by ``cfg`` share their statistics, in place; frozen ones have none.

    Args:
        model: on the device of this process.
    """
    if processes.size == 1:
        return
    for key, parts in _parts_by_key(model).items():
        if cfg.MODEL[key].NORM == "SyncBN":
            for part in parts:
                share_statistics(part, processes.device)


def uses_own_statistics(model: Detector, cfg: CfgNode) -> bool:
    """Whether a norm learns with the statistics of each process' own images, so that their number matters."""
    parts = [part for key, found in _parts_by_key(model).items() if cfg.MODEL[key].NORM == "BN" for part in found]
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for part in parts for module in part.modules())


def _parts_by_key(model: Detector) -> dict[str, list[nn.Module]]:
    """The parts of the detector whose norm a section of ``MODEL`` names; C4's head is a stage of the trunk."""
    backbone, heads = model.backbone, model.roi_heads
    found: dict[str, list[nn.Module]] = {"RESNETS": [], "FPN": [], "ROI_BOX_HEAD": [], "ROI_MASK_HEAD": []}
    if isinstance(backbone, PyramidBackbone):
        found["RESNETS"].append(backbone.bottom_up)
        found["FPN"].append(backbone.fpn)
    else:
        found["RESNETS"].append(backbone)
    found["RESNETS" if isinstance(heads.box_head, Res5Head) else "ROI_BOX_HEAD"].append(heads.box_head)
    if heads.mask_head is not None:
        found["ROI_MASK_HEAD"].append(heads.mask_head)
    return found
