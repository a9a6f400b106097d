"""The ``PRETRAIN.*`` keys. The trunk itself is named by the keys of detection.

Durations come with a unit: "steps", "epochs" (passes over the fraction), "images", and, in the schedule, "budget"
(shares of the whole run). A study that compares fractions at equal epochs and one that compares them at equal steps
differ in ``PRETRAIN.BUDGET.UNIT`` alone, and the card records it.

Pretraining also reads ``MODEL.BACKBONE.NAME`` and, as it says, ``MODEL.RESNETS.*`` or ``MODEL.TIMM.MODEL`` (with
``MODEL.RESNETS.NORM`` "BN", "GN" or "LN"), ``MODEL.PIXEL_MEAN/STD``, ``INPUT.FORMAT``,
``MODEL.DEVICE``, ``MODEL.WEIGHTS`` (a backbone to start from) and ``SEED``.
"""

from __future__ import annotations

from functools import partial

from scaleprior.config.keys.key import PRETRAIN, PRETRAINING, Key
from scaleprior.config.keys.legal import POSITIVE, SHARE, Each, Number, at_least, one_of

__all__ = ["KEYS"]

_key = partial(Key, engines=(PRETRAINING,), changes=(PRETRAIN,))
_neutral = partial(Key, engines=(PRETRAINING,), changes=())
_MOMENTUM = Number(0, 1, below=True)
_SIDE = Number(8, 4096)

_RUN = (
    _key("PRETRAIN.RECIPE", "custom", "Name of the recipe, written into the card; free text."),
    _key("PRETRAIN.BATCH_SIZE", 64, "Images a step, over all processes together.", legal=at_least(1)),
    _neutral(
        "PRETRAIN.CHECKPOINT_PERIOD", 1000,
        "Between checkpoints, from which an interrupted run goes on; 1 = every step, 0 = only on SIGTERM.",
        legal=at_least(0), unit="steps",
    ),
    _neutral("PRETRAIN.METRICS_PERIOD", 20, "Between lines of metrics.jsonl.", legal=at_least(1), unit="steps"),
    _neutral(
        "PRETRAIN.TENSORBOARD", False,
        "Write the same numbers for TensorBoard, under OUT/tensorboard; needs the tensorboard package. Under "
        "Detectron2's tools its own events are written wherever tensorboard is installed, and this key has no effect.",
    ),
    _key(
        "PRETRAIN.AMP", "off",
        "off = float32; bf16 = bfloat16 autocast of the trunk and head (the loss stays in float32; GPUs only).",
        legal=one_of("off", "bf16"),
    ),
    _key(
        "PRETRAIN.CHANNELS_LAST", False,
        "Keep activations as NHWC in memory. Changes speed, and results in the last bits.",
    ),
)  # fmt: skip

_DATA = (
    _key(
        "PRETRAIN.CORPUS", "",
        "Index folder of the corpus, as `scaleprior corpus build` makes it, or a saved fraction.", by_content=True,
    ),
    _key(
        "PRETRAIN.FRACTION.IMAGES", 0,
        "The first IMAGES of the corpus in hash order; with RATIO 0, too, the whole corpus (without the held-out "
        "tail).",
        legal=at_least(0), unit="images",
    ),
    _key(
        "PRETRAIN.FRACTION.RATIO", 0.0, "In place of IMAGES: the first RATIO of the corpus; 0 = not used.", legal=SHARE
    ),
    _key(
        "PRETRAIN.NOISE.RATE", 0.0,
        "Share of labels replaced by a wrong one, before ancestors are added; 0 = labels as they come. Absent labels "
        "stay, but for those that a wrong label contradicts.",
        legal=SHARE,
    ),
    _key(
        "PRETRAIN.NOISE.KIND", "uniform",
        'Wrong labels are drawn from all leaves ("uniform") or from the true label\'s siblings ("sibling").',
        legal=one_of("uniform", "sibling"),
    ),
    _key("PRETRAIN.NOISE.DROP", 0.0, "Share of (present) labels dropped.", legal=SHARE),
    _key(
        "PRETRAIN.NOISE.SEED", 0,
        "The seed of the noise: apart from SEED, so that seeds of one study share their noise.",
        legal=Number(0, 2**63 - 1),
    ),
    _key("PRETRAIN.EXPAND_LABELS", True, 'A label also counts as each of its ancestors ("apple" as "fruit").'),
    _key(
        "PRETRAIN.LOSS.UNLABELLED", "negative",
        "What a label is that is listed for an image neither as present nor as absent. negative: absent, as in the "
        "paper. ignore: unknown, and left out of the loss; negatives are then the labels that the corpus records as "
        "verified absent, and their descendants with EXPAND_LABELS.",
        legal=one_of("negative", "ignore"), since=2,
    ),
    _key(
        "PRETRAIN.HELD_OUT.CORPUS", "", 'Index folder to evaluate on; "" = the tail of the corpus.', by_content=True
    ),
    _key(
        "PRETRAIN.HELD_OUT.IMAGES", 0,
        "Images to evaluate on after training: the first ones of HELD_OUT.CORPUS, or the last ones of the corpus, "
        "which no fraction may then reach; 0 = do not evaluate.",
        legal=at_least(0), unit="images",
    ),
    _key(
        "PRETRAIN.INPUT.CROP", "resize_crop",
        "resize_crop: resize to RESIZE x RESIZE, then a random crop of SIZE x SIZE (the paper's). "
        "random_resized_crop: a random part of the image (SCALE, RATIO), resized to SIZE x SIZE.",
        legal=one_of("resize_crop", "random_resized_crop"),
    ),
    _key(
        "PRETRAIN.INPUT.SIZE", 299, "Side of what the network sees in training and evaluation.",
        legal=_SIDE, unit="pixels",
    ),
    _key(
        "PRETRAIN.INPUT.RESIZE", 340,
        "Side to which images are resized before the (random or central) crop, at least SIZE. Evaluation uses it with "
        "either CROP.",
        legal=_SIDE, unit="pixels",
    ),
    _key(
        "PRETRAIN.INPUT.SCALE", (0.08, 1.0),
        "random_resized_crop: limits of the part's share of the image's area.",
        legal=Each(Number(0, 1, above=True), lengths=(2,), rising=True),
    ),
    _key(
        "PRETRAIN.INPUT.RATIO", (0.75, 1.3333333333333333),
        "random_resized_crop: limits of the part's width over height.",
        legal=Each(POSITIVE, lengths=(2,), rising=True),
    ),
    _key("PRETRAIN.INPUT.MIRROR", 0.5, "Probability of a mirrored image.", legal=SHARE),
    _neutral(
        "PRETRAIN.LOADER.NUM_WORKERS", 0,
        "Processes that prepare batches; 0 = the training process itself, best for small images. No effect on results.",
        legal=Number(0, 256),
    ),
    _neutral(
        "PRETRAIN.LOADER.CACHE_MB", 1024,
        "Decoded images kept in memory, with NUM_WORKERS 0 only. No effect on results.",
        legal=at_least(0), unit="megabytes of 2**20 bytes",
    ),
    _neutral(
        "PRETRAIN.LOADER.MAX_UNREADABLE", 0.05,
        "Unreadable images are skipped, counted and logged; the run stops when more than this share of the images read "
        "so far is unreadable; 0 = the first one stops the run. No effect on the results of a run that goes through.",
        legal=SHARE,
    ),
)  # fmt: skip

_TRAINING = (
    _key(
        "PRETRAIN.BUDGET.UNIT", "epochs", "How long to train: the unit of AMOUNT.",
        legal=one_of("epochs", "steps", "images"),
    ),
    _key("PRETRAIN.BUDGET.AMOUNT", 4.0, "How long to train, in UNIT.", legal=POSITIVE),
    _key(
        "PRETRAIN.HEAD.PRIOR", 0.0,
        "The head's biases start at log(PRIOR / (1 - PRIOR)): every label is first believed present with this "
        "probability. 0 = the mean share of labels present in the fraction, of the known ones with LOSS.UNLABELLED "
        "ignore. (RetinaNet takes 0.01, Lin et al. 2017, "
        "3.3; big_vision's ImageNet-21k recipe takes a bias of -10, that is 4.5e-5.)",
        legal=Number(0, 1, below=True),
    ),
    _key(
        "PRETRAIN.OPTIMIZER.NAME", "sgd",
        "sgd (Nesterov momentum), rmsprop (TensorFlow's variant), adamw or lamb; all from timm or torch.",
        legal=one_of("sgd", "rmsprop", "adamw", "lamb"),
    ),
    _key(
        "PRETRAIN.OPTIMIZER.BASE_LR", 0.1,
        "Learning rate after warmup for BATCH_SIZE as it is: it is not scaled with the batch.", legal=POSITIVE,
    ),
    _key(
        "PRETRAIN.OPTIMIZER.MOMENTUM", 0.9, "Of sgd and rmsprop; adamw and lamb use betas (0.9, 0.999).",
        legal=_MOMENTUM,
    ),
    _key("PRETRAIN.OPTIMIZER.WEIGHT_DECAY", 1e-4, "Decay of convolution and head weights.", legal=at_least(0)),
    _key(
        "PRETRAIN.OPTIMIZER.WEIGHT_DECAY_NORM", 0.0, "Decay of norm gains and all biases.", legal=at_least(0)
    ),
    _key(
        "PRETRAIN.SCHEDULE.NAME", "cosine",
        "After a linear warmup: cosine (to zero at the end of the budget), exponential (times GAMMA every DECAY_EVERY, "
        "in stairs) or constant.",
        legal=one_of("cosine", "exponential", "constant"),
    ),
    _key(
        "PRETRAIN.SCHEDULE.UNIT", "budget",
        'Unit of WARMUP and DECAY_EVERY; "budget" means shares of the whole run.',
        legal=one_of("budget", "epochs", "steps", "images"),
    ),
    _key(
        "PRETRAIN.SCHEDULE.WARMUP", 0.05,
        "Length of the warmup, in UNIT; the rate grows linearly from BASE_LR / warmup steps. 0 = none.",
        legal=at_least(0),
    ),
    _key(
        "PRETRAIN.SCHEDULE.DECAY_EVERY", 0.1,
        "exponential: the rate is multiplied by GAMMA after every DECAY_EVERY, in UNIT.", legal=POSITIVE,
    ),
    _key("PRETRAIN.SCHEDULE.GAMMA", 0.9, "See DECAY_EVERY.", legal=Number(0, 1, above=True)),
)  # fmt: skip

KEYS = _RUN + _DATA + _TRAINING
