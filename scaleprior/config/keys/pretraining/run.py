"""Of a pretraining run as a whole: batch, arithmetic, checkpoints, figures."""

from __future__ import annotations

from functools import partial

from scaleprior.config.keys.key import PRETRAIN, PRETRAINING, Key
from scaleprior.config.keys.legal import at_least, one_of

__all__ = ["KEYS"]

_key = partial(Key, engines=(PRETRAINING,), changes=(PRETRAIN,))
_neutral = partial(Key, engines=(PRETRAINING,), changes=())

KEYS = (
    _key("PRETRAIN.RECIPE", "custom", "Name of the recipe, written into the card; free text."),
    _key("PRETRAIN.BATCH_SIZE", 64, "Images a step, over all processes together.", legal=at_least(1)),
    _key(
        "PRETRAIN.ACCUMULATE", 1,
        "Parts of a process' share of the batch that go through the network one after the other; their gradients are "
        "added up. Less memory, the same step; but BN's statistics are a part's.",
        legal=at_least(1), since=2,
    ),
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
