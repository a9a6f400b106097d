"""What the lazy twins share, as configs/COCO-Detection/Base-Common.yaml and Base-Schedule-1x.yaml have it.

Detectron2's own lazy pieces, reached by path, with the input of v1.5 RGB weights. These files import scaleprior.d2, so
`train.init_checkpoint` takes a backbone of ScalePrior's (a file, or scaleprior://NAME) in any trainer that uses
Detectron2's checkpointer, such as its tools/lazyconfig_train_net.py; one that does not fit the model is an error.
"""

from detectron2.config import LazyConfig

from scaleprior.d2.zoo_files import zoo_file

optimizer = LazyConfig.load(str(zoo_file("common/optim.py")), "SGD")  # its rate is 0.02, for 16 images a step
lr_multiplier = LazyConfig.load(str(zoo_file("common/coco_schedule.py")), "lr_multiplier_1x")
dataloader = LazyConfig.load(str(zoo_file("common/data/coco.py")), "dataloader")
train = LazyConfig.load(str(zoo_file("common/train.py")), "train")

dataloader.train.mapper.image_format = "RGB"  # the test mapper follows; the model has a copy of its own
dataloader.train.mapper.use_instance_mask = False
dataloader.train.mapper.augmentations[0].short_edge_length = (800,)  # single scale


def expect_v15_rgb(model, resnet):
    """Set a detector's pixel statistics and channel order, and stride and frozen stages of its ResNet."""
    model.pixel_mean = [123.675, 116.28, 103.53]
    model.pixel_std = [58.395, 57.12, 57.375]
    model.input_format = dataloader.train.mapper.image_format
    resnet.stages.stride_in_1x1 = False
    resnet.freeze_at = 2  # the stem and res2, as MODEL.BACKBONE.FREEZE_AT is by default
    return model
