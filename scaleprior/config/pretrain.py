"""The ``PRETRAIN.*`` keys. The trunk itself is described by Detectron2's ``MODEL.RESNETS.*``, as in detection.

Durations come with a unit: "steps", "epochs" (passes over the fraction), "images", and, in the schedule, "budget"
(shares of the whole run). A study that compares fractions at equal epochs and one that compares them at equal steps
differ in ``PRETRAIN.BUDGET.UNIT`` alone, and the card records it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["add_pretrain_config"]


def add_pretrain_config(cfg: CfgNode) -> None:
    """Declare every pretraining key on ``cfg``, each with its meaning, unit and legal values.

    Pretraining also reads ``MODEL.RESNETS.*`` (with NORM "BN" or "GN"), ``MODEL.PIXEL_MEAN/STD``, ``INPUT.FORMAT``,
    ``MODEL.DEVICE``, ``MODEL.WEIGHTS`` (a backbone to start from) and ``SEED``.
    """
    node = type(cfg)  # Detectron2's configs accept nodes of their own class only
    cfg.PRETRAIN = pretrain = node()
    # Name of the recipe, written into the card; free text.
    pretrain.RECIPE = "custom"
    # Images a step, over all processes together.
    pretrain.BATCH_SIZE = 64
    # Steps between checkpoints, from which an interrupted run goes on; 1 = every step, 0 = only on SIGTERM.
    pretrain.CHECKPOINT_PERIOD = 1000
    # Steps between lines of metrics.jsonl, >= 1.
    pretrain.METRICS_PERIOD = 20
    # Write the same numbers for TensorBoard, under OUT/tensorboard; needs the tensorboard package. Under Detectron2's
    # tools its own events are written wherever tensorboard is installed, and this key has no effect.
    pretrain.TENSORBOARD = False
    # "off" (float32), "bf16" (bfloat16 autocast of the trunk and head; the loss stays in float32; GPUs only).
    pretrain.AMP = "off"
    # Keep activations as NHWC in memory. Changes speed, and results in the last bits.
    pretrain.CHANNELS_LAST = False
    _add_data(pretrain, node)
    _add_training(pretrain, node)


def _add_data(pretrain: CfgNode, node: type[CfgNode]) -> None:
    # Index folder of the corpus, as `scaleprior corpus build` makes it, or a saved fraction.
    pretrain.CORPUS = ""
    pretrain.FRACTION = node()
    # The first IMAGES of the corpus in hash order, or the first RATIO in (0, 1] of it; both 0 = the whole corpus
    # (without the held-out tail).
    pretrain.FRACTION.IMAGES = 0
    pretrain.FRACTION.RATIO = 0.0

    pretrain.NOISE = node()
    # Share of labels in [0, 1] replaced by a wrong one, before ancestors are added; 0 = labels as they come.
    pretrain.NOISE.RATE = 0.0
    # Wrong labels are drawn from all leaves ("uniform") or from the true label's siblings ("sibling").
    pretrain.NOISE.KIND = "uniform"
    # Share of labels in [0, 1] dropped.
    pretrain.NOISE.DROP = 0.0
    # The seed of the noise: apart from SEED, so that seeds of one study share their noise.
    pretrain.NOISE.SEED = 0
    # A label also counts as each of its ancestors ("apple" as "fruit").
    pretrain.EXPAND_LABELS = True

    pretrain.HELD_OUT = node()
    # Index folder to evaluate on; "" = the tail of the corpus.
    pretrain.HELD_OUT.CORPUS = ""
    # Images to evaluate on after training: the first ones of HELD_OUT.CORPUS, or the last ones of the corpus, which
    # no fraction may then reach; 0 = do not evaluate.
    pretrain.HELD_OUT.IMAGES = 0

    pretrain.INPUT = node()
    # "resize_crop": resize to RESIZE x RESIZE, then a random crop of SIZE x SIZE (the paper's).
    # "random_resized_crop": a random part of the image (SCALE, RATIO), resized to SIZE x SIZE.
    pretrain.INPUT.CROP = "resize_crop"
    # Side of what the network sees in training and evaluation, in pixels.
    pretrain.INPUT.SIZE = 299
    # Side to which images are resized before the (random or central) crop, in pixels; >= SIZE. Evaluation uses it
    # with either CROP.
    pretrain.INPUT.RESIZE = 340
    # random_resized_crop: limits of the part's share of the image's area, in (0, 1], and of its width over height.
    pretrain.INPUT.SCALE = (0.08, 1.0)
    pretrain.INPUT.RATIO = (0.75, 1.3333333333333333)
    # Probability of a mirrored image, in [0, 1].
    pretrain.INPUT.MIRROR = 0.5

    pretrain.LOADER = node()
    # Processes that prepare batches; 0 = the training process itself, best for small images. No effect on results.
    pretrain.LOADER.NUM_WORKERS = 0
    # Megabytes (2**20 bytes) of decoded images kept in memory, with NUM_WORKERS 0 only. No effect on results.
    pretrain.LOADER.CACHE_MB = 1024
    # Unreadable images are skipped, counted and logged; the run stops when more than this share of the images read
    # so far is unreadable, in [0, 1]; 0 = the first one stops the run.
    pretrain.LOADER.MAX_UNREADABLE = 0.05


def _add_training(pretrain: CfgNode, node: type[CfgNode]) -> None:
    pretrain.BUDGET = node()
    # How long to train: AMOUNT of UNIT "epochs", "steps" or "images".
    pretrain.BUDGET.UNIT = "epochs"
    pretrain.BUDGET.AMOUNT = 4.0

    pretrain.HEAD = node()
    # The head's biases start at log(PRIOR / (1 - PRIOR)): every label is first believed present with this probability
    # in (0, 1). 0 = the mean share of labels present in the fraction. (RetinaNet takes 0.01, Lin et al. 2017, 3.3;
    # big_vision's ImageNet-21k recipe takes a bias of -10, that is 4.5e-5.)
    pretrain.HEAD.PRIOR = 0.0

    pretrain.OPTIMIZER = node()
    # "sgd" (Nesterov momentum), "rmsprop" (TensorFlow's variant), "adamw" or "lamb"; all from timm or torch.
    pretrain.OPTIMIZER.NAME = "sgd"
    # Learning rate after warmup for BATCH_SIZE as it is: it is not scaled with the batch.
    pretrain.OPTIMIZER.BASE_LR = 0.1
    # Momentum of sgd and rmsprop in [0, 1); adamw and lamb use betas (0.9, 0.999).
    pretrain.OPTIMIZER.MOMENTUM = 0.9
    # Decay of convolution and head weights, and of norm gains and all biases.
    pretrain.OPTIMIZER.WEIGHT_DECAY = 1e-4
    pretrain.OPTIMIZER.WEIGHT_DECAY_NORM = 0.0

    pretrain.SCHEDULE = node()
    # "cosine" (to zero at the end of the budget), "exponential" (times GAMMA every DECAY_EVERY, in stairs) or
    # "constant"; all after a linear warmup.
    pretrain.SCHEDULE.NAME = "cosine"
    # Unit of WARMUP and DECAY_EVERY: "budget" (shares of the whole run), "epochs", "steps" or "images".
    pretrain.SCHEDULE.UNIT = "budget"
    # Length of the warmup; the rate grows linearly from BASE_LR / warmup steps. 0 = none.
    pretrain.SCHEDULE.WARMUP = 0.05
    # exponential: the rate is multiplied by GAMMA in (0, 1] after every DECAY_EVERY.
    pretrain.SCHEDULE.DECAY_EVERY = 0.1
    pretrain.SCHEDULE.GAMMA = 0.9
