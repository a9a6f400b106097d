"""Keys of the detector's training: length, learning rate, decay, clipping."""

from __future__ import annotations

import math
from functools import partial

from scaleprior.config.keys.key import DETECTORS, FINETUNE, Key
from scaleprior.config.keys.legal import POSITIVE, SHARE, Each, Number, at_least, one_of

__all__ = ["KEYS"]

_training = partial(Key, engines=DETECTORS, changes=(FINETUNE,))

KEYS = (
    _training(
        "SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "How the learning rate falls: in steps, or as half a cosine.",
        legal=one_of("WarmupMultiStepLR", "WarmupCosineLR"), elsewhere=True,
    ),
    _training("SOLVER.MAX_ITER", 40000, "Length of training.", legal=at_least(0), unit="steps"),
    _training("SOLVER.IMS_PER_BATCH", 16, "Images per step, of all processes together.", legal=at_least(1)),
    _training(
        "SOLVER.REFERENCE_WORLD_SIZE", 0,
        "For how many processes (GPUs) the config is meant. On another number IMS_PER_BATCH and BASE_LR follow the "
        "processes, and MAX_ITER, STEPS, WARMUP_ITERS and CHECKPOINT_PERIOD become longer or shorter accordingly "
        "(Detectron2's arithmetic). It is settled before a run begins: files say what ran. 0 = nothing is scaled.",
        legal=at_least(0), unit="processes", since=2,
    ),
    _training("SOLVER.BASE_LR", 0.001, "Learning rate after warmup.", legal=POSITIVE),
    _training(
        "SOLVER.BASE_LR_END", 0.0, "Learning rate at the end, at most BASE_LR (cosine only).", legal=at_least(0)
    ),
    _training("SOLVER.MOMENTUM", 0.9, "SGD's momentum.", legal=SHARE),
    _training("SOLVER.NESTEROV", False, "Whether it is Nesterov's."),
    _training("SOLVER.WEIGHT_DECAY", 0.0001, "Decay of weights.", legal=at_least(0)),
    _training(
        "SOLVER.WEIGHT_DECAY_NORM", 0.0, "Decay of the gains and biases of norm layers.", legal=at_least(0)
    ),
    _training("SOLVER.WEIGHT_DECAY_BIAS", None, "Decay of other biases; None = as weights.", legal=at_least(0)),
    _training("SOLVER.BIAS_LR_FACTOR", 1.0, "Biases learn at BASE_LR times this.", legal=at_least(0)),
    _training("SOLVER.GAMMA", 0.1, "WarmupMultiStepLR: at each of STEPS the rate is multiplied by this.",
              legal=at_least(0)),
    _training("SOLVER.STEPS", (30000,), "WarmupMultiStepLR: the steps at which the rate falls, ascending.",
              legal=Each(at_least(0)), unit="steps"),
    _training(
        "SOLVER.WARMUP_FACTOR", 1.0 / 1000,
        'Over the first WARMUP_ITERS steps the rate is multiplied by a factor that grows from this to 1 ("linear"), or '
        'stays at it ("constant").', legal=at_least(0),
    ),
    _training("SOLVER.WARMUP_ITERS", 1000, "Length of the warmup.", legal=at_least(0), unit="steps"),
    _training("SOLVER.WARMUP_METHOD", "linear", "See WARMUP_FACTOR.", legal=one_of("linear", "constant")),
    Key(
        "SOLVER.CHECKPOINT_PERIOD", 5000,
        "Between checkpoints, from which an interrupted run goes on; 1 = every step, 0 = only at the end.",
        engines=DETECTORS, changes=(), legal=at_least(0), unit="steps",
    ),
    _training("SOLVER.CLIP_GRADIENTS.ENABLED", False, "Whether gradients are clipped."),
    _training(
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value",
        '"value": every element into [-CLIP_VALUE, CLIP_VALUE]; "norm": each parameter\'s gradient, by itself, to a '
        "NORM_TYPE norm of at most CLIP_VALUE (Detectron2's meaning, not the norm over all parameters).",
        legal=one_of("value", "norm"),
    ),
    _training("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1.0, "See CLIP_TYPE.", legal=at_least(0)),
    _training("SOLVER.CLIP_GRADIENTS.NORM_TYPE", 2.0, "See CLIP_TYPE.", legal=Number(0, above=True, also=(math.inf,))),
    _training("SOLVER.AMP.ENABLED", False, "Mixed precision, in the numbers of SCALEPRIOR.AMP_DTYPE."),
)  # fmt: skip
