"""How images become batches."""

from __future__ import annotations

from functools import partial

from scaleprior.config.keys.key import PRETRAIN, PRETRAINING, Key
from scaleprior.config.keys.legal import POSITIVE, SHARE, Anything, Each, Number, at_least, one_of

__all__ = ["KEYS"]

_key = partial(Key, engines=(PRETRAINING,), changes=(PRETRAIN,))
_neutral = partial(Key, engines=(PRETRAINING,), changes=())
_SIDE = Number(8, 4096)

KEYS = (
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
        "PRETRAIN.INPUT.PROGRESSIVE", (),
        "Progressive resizing: pairs of a share of the run and the SIZE until then, both rising, such as ((0.5, 128), "
        "(0.8, 176)); then SIZE. resize_crop's RESIZE is scaled in proportion. The run's pixels, as a share of those "
        "without it, are in the log and in the card. () = SIZE throughout.",
        legal=Each(Anything("pairs (share, size)")), since=2,
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
    _key(
        "PRETRAIN.LOADER.DECODE", "cpu",
        "Who decodes training images. gpu: JPEGs by torchvision's decoder of the GPU, which crops and resizes them, "
        "too; other formats, and JPEGs out of the ordinary, still on the CPU. The crops are the same but for rounding. "
        "Needs a GPU.",
        legal=one_of("cpu", "gpu"), since=2,
    ),
    _neutral(
        "PRETRAIN.LOADER.CACHE_MB", 1024,
        "Decoded images kept in memory, with NUM_WORKERS 0 and DECODE cpu only. No effect on results.",
        legal=at_least(0), unit="megabytes of 2**20 bytes",
    ),
    _neutral(
        "PRETRAIN.LOADER.MAX_UNREADABLE", 0.05,
        "Unreadable images are skipped, counted and logged; the run stops when more than this share of the images read "
        "so far is unreadable; 0 = the first one stops the run. No effect on the results of a run that goes through.",
        legal=SHARE,
    ),
)  # fmt: skip
