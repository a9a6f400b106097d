"""How weights move."""

from __future__ import annotations

from functools import partial

from scaleprior.config.keys.key import PRETRAIN, PRETRAINING, Key
from scaleprior.config.keys.legal import POSITIVE, Number, at_least, one_of

__all__ = ["KEYS"]

_key = partial(Key, engines=(PRETRAINING,), changes=(PRETRAIN,))
_MOMENTUM = Number(0, 1, below=True)

KEYS = (
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
        "PRETRAIN.HEAD.CHUNK", 0,
        "Labels whose logits the loss holds at a time, for label spaces above about 100,000; 0 = all of them. The loss "
        "is the same up to rounding.",
        legal=at_least(0), since=2,
    ),
    _key(
        "PRETRAIN.HEAD.SHARDED", False,
        "Each of several processes has a share of the labels in its head, in memory and in work, and learns them from "
        "the features of all images. The run is the same up to rounding, files hold the whole head.",
        since=2,
    ),
    _key(
        "PRETRAIN.OPTIMIZER.NAME", "sgd",
        "sgd (Nesterov momentum), rmsprop (TensorFlow's variant), adamw or lamb; all from timm or torch.",
        legal=one_of("sgd", "rmsprop", "adamw", "lamb"),
    ),
    _key(
        "PRETRAIN.OPTIMIZER.BASE_LR", 0.1,
        "Learning rate after warmup, for BATCH_SIZE as it is, or for REFERENCE_BATCH, from which it is then scaled.",
        legal=POSITIVE,
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
        "PRETRAIN.OPTIMIZER.CLIP_NORM", 0.0,
        "Largest 2-norm of the whole gradient; a larger one is scaled down to it. 0 = any.", legal=at_least(0), since=2,
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
    _key(
        "PRETRAIN.EMA.DECAY", 0.0,
        "Evaluate and save, in place of the last weights, their average over the steps: after step t (from 0) it keeps "
        "the smaller of DECAY and (1 + t) / (10 + t) of itself. BN's statistics are averaged, too. The card says so. "
        "0 = off.",
        legal=Number(0, 1, below=True), since=2,
    ),
    _key(
        "PRETRAIN.DROP_PATH", 0.0,
        "Stochastic depth: chance that an image skips a residual branch in training, growing linearly from 0 in the "
        "first block to this in the last (timm's). For trunks that have such blocks; 0 = off.",
        legal=Number(0, 1, below=True), since=2,
    ),
    _key(
        "PRETRAIN.FREEZE", "none",
        "trunk: only the head learns, on a backbone that MODEL.WEIGHTS names and that is saved as it was (a linear "
        "probe); its BN keeps its statistics. none: all learns.",
        legal=one_of("none", "trunk"), since=2,
    ),
    _key("PRETRAIN.SCHEDULE.GAMMA", 0.9, "See DECAY_EVERY.", legal=Number(0, 1, above=True)),
)  # fmt: skip
