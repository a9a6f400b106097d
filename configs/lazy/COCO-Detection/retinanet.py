"""RetinaNet R-50 FPN as a LazyConfig; in YAML, take Detectron2's own with `scaleprior.model_zoo.with_backbone`.

Another depth is `model.backbone.bottom_up.stages.depth=101`.
"""

from detectron2.config import LazyConfig

from scaleprior.d2.zoo_files import zoo_file

from .common import dataloader, expect_v15_rgb, lr_multiplier, optimizer, train

model = LazyConfig.load(str(zoo_file("common/models/retinanet.py")), "model")
expect_v15_rgb(model, model.backbone.bottom_up)
optimizer.lr = 0.01  # Detectron2's for RetinaNet
