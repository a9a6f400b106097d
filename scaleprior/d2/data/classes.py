"""How many classes a detector has, held against those of the sets that it is trained on."""

from __future__ import annotations

import logging

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from scaleprior.config.dotted import get_key
from scaleprior.errors import UserError
from scaleprior.wording import counted

__all__ = ["CLASS_KEYS", "SEMANTIC", "check_classes"]

# Below Detectron2's own logger, so that a program of the user's, which set up that one, shows it.
logger = logging.getLogger("detectron2.scaleprior")

SEMANTIC = "MODEL.SEM_SEG_HEAD.NUM_CLASSES"  # of pixels; the others count objects
CLASS_KEYS = {
    "MODEL.ROI_HEADS.NUM_CLASSES": ("GeneralizedRCNN", "PanopticFPN"),
    "MODEL.RETINANET.NUM_CLASSES": ("RetinaNet",),
    SEMANTIC: ("SemanticSegmentor", "PanopticFPN"),
}
"""By key, the meta-architectures that read it."""


def check_classes(cfg: CfgNode, *, own_loader: bool) -> None:
    """Hold the number of classes of objects against what the training sets' metadata say.

    Args:
        own_loader: what the model is given is somebody else's, who may number the classes in another way.

    Raises:
        UserError: there are fewer than in the data. Detectron2 would train the next class as background.
    """
    for key, architectures in CLASS_KEYS.items():
        if key == SEMANTIC or cfg.MODEL.META_ARCHITECTURE not in architectures:
            continue
        said = get_key(cfg, key)
        for name in cfg.DATASETS.TRAIN:
            classes = len(MetadataCatalog.get(name).get("thing_classes") or ())
            if not classes or classes == said:
                continue
            words = f"{key} is {said}, and data set {name} has {counted(classes, 'classes')}"
            if said < classes and not own_loader:
                raise UserError(words, hint=f"use {key} {classes}")
            logger.warning("%s: use %s %d, unless it is meant so", words, key, classes)
