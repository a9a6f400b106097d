"""Faster R-CNN R-50 FPN as a LazyConfig: the twin of configs/COCO-Detection/faster_rcnn_R_50_FPN.yaml.

Another depth is `model.backbone.bottom_up.stages.depth=101`.
"""

from detectron2.config import LazyConfig

from scaleprior.d2.zoo_files import zoo_file

from .common import dataloader, expect_v15_rgb, lr_multiplier, optimizer, train

model = LazyConfig.load(str(zoo_file("common/models/mask_rcnn_fpn.py")), "model")
for part in ("mask_in_features", "mask_pooler", "mask_head"):
    del model.roi_heads[part]
expect_v15_rgb(model, model.backbone.bottom_up)
