"""Why a file's tensors are no trunk although a trunk is in it: weights that are computed from others, or not there.

The names are those that torch gives (``torch.nn.utils``: ``weight_norm``, ``spectral_norm``, ``prune``,
``parametrizations``) and Hugging Face's PEFT and microsoft/LoRA. Of weights only those of convolutions count: DINO's
heads have weight norm in files whose trunks are plain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scaleprior.backbones.readers.report import some

__all__ = ["Obstacle", "obstacle"]


class Obstacle(NamedTuple):
    """What stands in the way, and what to do about it."""

    what: str
    instead: str


_COMPUTED: tuple[tuple[re.Pattern[str], int, Obstacle], ...] = (
    (
        re.compile(r"weight_mask$"), 4,
        Obstacle("pruned convolutions: a mask beside each weight",
                 "make them plain by torch.nn.utils.prune.remove(module, 'weight'), and save the state_dict again"),
    ),
    (
        re.compile(r"weight_v$"), 4,
        Obstacle("convolutions with weight norm (weight_g, weight_v)",
                 "make them plain by torch.nn.utils.remove_weight_norm(module), and save the state_dict again"),
    ),
    (
        re.compile(r"weight_orig$"), 4,
        Obstacle("convolutions with spectral norm (weight_orig, weight_u, weight_v)",
                 "make them plain by torch.nn.utils.remove_spectral_norm(module), and save the state_dict again"),
    ),
    (
        re.compile(r"parametrizations\.weight\.original\d?$"), 4,
        Obstacle("convolutions whose weights are parametrised (parametrizations.weight: weight norm, spectral norm)",
                 "make them plain by torch.nn.utils.parametrize.remove_parametrizations(module, 'weight'), "
                 "and save the state_dict again"),
    ),
    (
        re.compile(r"(?:.*\.)?lora_[AB](?:\.|$)"), 0,
        Obstacle("LoRA's adapters (lora_A, lora_B)",
                 "merge them into the weights (PEFT: model.merge_and_unload()), and save the state_dict again"),
    ),
)  # fmt: skip
"""The end of a name behind its last module, the sides that the tensor must have (0 = any), what it is."""
_TENSORS = re.compile(r"(?P<name>.*): torch(?:\._utils\._rebuild_\w+|\.Tensor)")


def obstacle(tensors: Mapping[str, Any], left_out: Sequence[str]) -> Obstacle | None:
    """What keeps the tensors of a file from being a trunk; None: nothing that is known.

    Args:
        left_out: objects of a pickle that were passed over, "where: class".
    """
    for pattern, sides, what in _COMPUTED:
        if any(pattern.search(name) and sides in (0, len(tensors[name].shape)) for name in tensors):
            return what
    passed = [match["name"] for entry in left_out if (match := _TENSORS.fullmatch(entry))]
    if weights := [name for name in passed if name.endswith("weight")]:
        return Obstacle(
            f"{len(weights)} weights that are quantised, sparse or of 8 bits ({some(weights)})",
            "take weights in floats of 16 bits or more",
        )
    empty = [name for name, tensor in tensors.items() if tuple(tensor.shape) == (0,) and name.endswith(".weight")]
    if empty:
        return Obstacle(
            f"{len(empty)} weights without numbers ({some(empty)}), as ZeRO's third stage leaves them in each file",
            "join the files by DeepSpeed's zero_to_fp32.py, which lies beside them",
        )
    return None
