"""Which images and which labels are learnt from."""

from __future__ import annotations

from functools import partial

from scaleprior.config.keys.key import PRETRAIN, PRETRAINING, Key
from scaleprior.config.keys.legal import SHARE, Number, at_least, one_of

__all__ = ["KEYS"]

_key = partial(Key, engines=(PRETRAINING,), changes=(PRETRAIN,))

KEYS = (
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
        "PRETRAIN.LOSS.SMOOTHING", 0.0,
        "Label smoothing s: a present label's target is 1 - s / 2, an absent one's s / 2 (Szegedy et al. 2016 for two "
        "classes, as in Keras' BinaryCrossentropy). Each of thousands of labels is then believed present with s / 2.",
        legal=Number(0, 1, below=True), since=2,
    ),
)  # fmt: skip
