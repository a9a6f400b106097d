"""Faster R-CNN R-50 C4 as a LazyConfig: the twin of configs/COCO-Detection/faster_rcnn_R_50_C4.yaml.

Another depth is `model.backbone.stages.depth=101`. The stride is set twice: res5 belongs to the head.
"""

from detectron2.config import LazyConfig

from scaleprior.d2.zoo_files import zoo_file

from .common import dataloader, expect_v15_rgb, lr_multiplier, optimizer, train

model = LazyConfig.load(str(zoo_file("common/models/mask_rcnn_c4.py")), "model")
del model.roi_heads["mask_head"]
expect_v15_rgb(model, model.backbone)
model.roi_heads.res5.stride_in_1x1 = model.backbone.stages.stride_in_1x1
