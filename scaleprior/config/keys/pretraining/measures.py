"""What is measured beside the loss."""

from __future__ import annotations

from functools import partial

from scaleprior.config.keys.key import PRETRAIN, PRETRAINING, Key
from scaleprior.config.keys.legal import Each, at_least, one_of

__all__ = ["KEYS"]

_key = partial(Key, engines=(PRETRAINING,), changes=(PRETRAIN,))
_neutral = partial(Key, engines=(PRETRAINING,), changes=(), since=2)

KEYS = (
    _key(
        "PRETRAIN.HELD_OUT.CORPUS", "", 'Index folder to evaluate on; "" = the tail of the corpus.', by_content=True
    ),
    _key(
        "PRETRAIN.HELD_OUT.IMAGES", 0,
        "Images to evaluate on after training: the first ones of HELD_OUT.CORPUS, or the last ones of the corpus, "
        "which no fraction may then reach; 0 = do not evaluate.",
        legal=at_least(0), unit="images",
    ),
    _neutral(
        "PRETRAIN.EVAL.PERIOD", 0,
        "Between measurements on the held-out images and by the probes, while the run trains; 0 = only at its end. No "
        "effect on what it learns, and its time does not count as training's.",
        legal=at_least(0), unit="steps",
    ),
    _neutral(
        "PRETRAIN.PROBE.CORPUS", "",
        "Index folder of a labelled set, of any label space, for probes of the trunk's features: classifiers that "
        'leave the trunk as it is. Measured at the end and with EVAL.PERIOD. "" = none.',
    ),
    _neutral(
        "PRETRAIN.PROBE.KINDS", ("linear", "knn"),
        "linear: logistic regression with an L2 penalty; knn: votes of the 20 nearest.",
        legal=Each(one_of("linear", "knn")),
    ),
    _neutral(
        "PRETRAIN.PROBE.IMAGES", 10000,
        "Of PROBE.CORPUS, the first in hash order, at most; the probes learn from the first four fifths of them and "
        "are judged on the rest. 0 = all.",
        legal=at_least(0), unit="images",
    ),
)  # fmt: skip
