"""Facts in the ``args`` that timm's train.py saves in its checkpoints (``model_best.pth.tar``).

Read in huggingface/pytorch-image-models train.py, timm/utils/checkpoint_saver.py and timm/data/config.py: a mean or
std that is not given is that of the model's own ``pretrained_cfg``, and one number stands for all channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaleprior.backbones.card import LARGEST
from scaleprior.backbones.readers.sources.timm_configs import timm_facts
from scaleprior.backbones.readers.sources.values import attributes, scaled, three_numbers
from scaleprior.backbones.readers.timm_names import published
from scaleprior.backbones.trunks.published import KnownFacts, Triple
from scaleprior.errors import UserError

__all__ = ["ARGS", "timm_args", "timm_args_facts"]

ARGS = "args of timm's train.py in the file"
_ITS_OWN = frozenset(
    {"model", "mean", "std", "crop_pct", "interpolation", "bn_eps", "reprob", "remode", "sched", "model_ema"}
)
"""Arguments that train.py has had from the start, and that no other script is known to have together."""


def timm_args(tree: Any) -> Mapping[str, Any] | None:
    """The arguments in a checkpoint of timm's train.py; None = it is not provably one."""
    args = attributes(tree.get("args")) if isinstance(tree, Mapping) else {}
    return args if set(args) >= _ITS_OWN and isinstance(args["model"], str) else None


def timm_args_facts(tree: Any) -> list[KnownFacts]:
    """What the arguments say; where they leave it to the model, what timm says of that."""
    args = timm_args(tree)
    if args is None:
        return []
    size = args.get("input_size") or args.get("img_size")
    size = size[-1] if isinstance(size, (list, tuple)) and size else size
    eps = args["bn_eps"]
    said = KnownFacts(
        ARGS,
        _of_channels(args["mean"]),
        _of_channels(args["std"]),
        "RGB",
        False,
        input_size=_count(size),
        labels=_count(args.get("num_classes")),
        norm_eps=float(eps) if type(eps) in (int, float) and 0 <= eps < 1 else None,
    )
    return [said, *_left_to_the_model(args["model"], said)]


def _left_to_the_model(model: str, said: KnownFacts) -> list[KnownFacts]:
    """timm's own settings of the model where nothing was said, as ``timm.data.resolve_data_config`` takes them."""
    try:
        cfg = published(model)
    except UserError:
        return []
    given = {"mean": said.pixel_mean, "std": said.pixel_std, "input_size": said.input_size}
    left = {name: cfg.get(name) for name, value in given.items() if value is None}
    words = f"timm's own settings of {model}, which args of timm's train.py in the file leave as they are"
    return [timm_facts(left, words)] if left else []


def _of_channels(value: Any) -> Triple | None:
    value = list(value) * 3 if isinstance(value, (list, tuple)) and len(value) == 1 else value
    return scaled(three_numbers(value))


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 < value <= LARGEST else None
