"""Pixel statistics that stand in a file as tensors or numbers: a detector's buffers, hyper-parameters of a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from scaleprior.backbones.readers.sources.values import attributes, order_of, scaled, three_numbers
from scaleprior.backbones.trunks.published import KnownFacts, Triple

__all__ = ["buffer_facts", "hyper_parameter_facts"]

_BUFFERS = {
    "pixel_mean": ("pixel_std", 1.0, None),
    "normalizer.new_mean": ("normalizer.new_std", 255.0, "RGB"),
}
"""End of a mean's name -> (that of its std, what brings both to the 0-255 scale, their channel order).

``pixel_mean``: Detectron2's meta-architectures, which no longer save it, and those derived from them, which often do.
``normalizer.new_mean``: MadryLab/robustness, ``InputNormalize`` over pixels in 0..1."""


def buffer_facts(tree: Any) -> list[KnownFacts]:
    """Facts in buffers of normalisation. Places that disagree, such as two models in one file, say nothing."""
    found = []
    for end, (partner, factor, order) in _BUFFERS.items():
        pairs: set[tuple[Triple, Triple]] = set()
        name = end
        for key, state in _ending(tree, end):
            mean, std = three_numbers(state[key]), three_numbers(state.get(key.removesuffix(end) + partner))
            if mean is not None and std is not None and min(std) > 0:
                pairs.add((mean, std))
                name = key
        if len(pairs) == 1:
            mean, std = (scaled(three, factor) for three in pairs.pop())
            words = f"{name} and {partner.rpartition('.')[2]} in the file"
            found.append(KnownFacts(words, mean, std, order or order_of(mean)))
    return found


def _ending(tree: Any, end: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(key, its dict) of every key in nested dicts that is ``end``, or ends in it behind a dot."""
    if not isinstance(tree, Mapping):
        return
    for key, value in tree.items():
        if isinstance(key, str) and (key == end or key.endswith(f".{end}")):
            yield key, tree
        elif isinstance(value, Mapping):
            yield from _ending(value, end)


def hyper_parameter_facts(tree: Any) -> list[KnownFacts]:
    """Mean and std among the ``hyper_parameters`` of a Lightning checkpoint, alone or under ``normalize``.

    Numbers below 1 are of pixels in 0..1. A mean of 0 with a std of 1 does not tell its scale, and says nothing.
    """
    settings = attributes(tree.get("hyper_parameters")) if isinstance(tree, Mapping) else {}
    for place, words in ((settings, "hyper_parameters"), (attributes(settings.get("normalize")), "their normalize")):
        mean, std = three_numbers(place.get("mean")), three_numbers(place.get("std"))
        if mean is None or std is None or min(std) <= 0 or min(mean) < 0 or (max(mean) == 0 and std == (1, 1, 1)):
            continue
        if max(mean) <= 1 and max(std) <= 1:
            mean, std = scaled(mean), scaled(std)
        elif max(mean) < 1 or max(mean) > 255:
            continue  # of no scale that is known
        return [KnownFacts(f"{words} in the file", mean, std, order_of(mean))]
    return []
