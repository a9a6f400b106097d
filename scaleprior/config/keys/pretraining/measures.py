"""What is measured beside the loss."""

from __future__ import annotations

from functools import partial

from scaleprior.config.keys.key import PRETRAIN, PRETRAINING, Key
from scaleprior.config.keys.legal import at_least

__all__ = ["KEYS"]

_key = partial(Key, engines=(PRETRAINING,), changes=(PRETRAIN,))

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
)  # fmt: skip
