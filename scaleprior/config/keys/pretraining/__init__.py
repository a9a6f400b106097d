"""The ``PRETRAIN.*`` keys. The trunk itself is named by the keys of detection.

Durations come with a unit: "steps", "epochs" (passes over the fraction), "images", and, in the schedule, "budget"
(shares of the whole run). A study that compares fractions at equal epochs and one that compares them at equal steps
differ in ``PRETRAIN.BUDGET.UNIT`` alone, and the card records it.

Pretraining also reads ``MODEL.BACKBONE.NAME`` and, as it says, ``MODEL.RESNETS.*`` or ``MODEL.TIMM.MODEL`` (with
``MODEL.RESNETS.NORM`` "BN", "GN" or "LN"), ``MODEL.PIXEL_MEAN/STD``, ``INPUT.FORMAT``,
``MODEL.DEVICE``, ``MODEL.WEIGHTS`` (a backbone to start from) and ``SEED``.
"""

from scaleprior.config.keys.key import Key
from scaleprior.config.keys.pretraining import images, labels, learning, measures, run, step

__all__ = ["KEYS"]

KEYS: tuple[Key, ...] = (*run.KEYS, *step.KEYS, *labels.KEYS, *measures.KEYS, *images.KEYS, *learning.KEYS)
