"""What a whole pickled model states beside its tensors: attributes of its modules, under torch's own names for them.

``torch.save(model)`` keeps every attribute of every module, so it says what a ``state_dict`` cannot: the eps of norms,
strides and dilations, the groups of GroupNorm, the kind of activation. Of models of several trunks only what all
their trunks have counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from scaleprior.backbones.readers.pickle import Placeholder
from scaleprior.backbones.trunks.published import KnownFacts

__all__ = ["module_facts", "module_variants"]

_WHERE = "the modules of the pickled model in the file"
_STAGE = re.compile(r"(?:.*\.)?(?:layer(?P<layer>[1-4])|res(?P<res>[2-5]))\.(?P<inner>.+)")
_OTHER = re.compile(r"SiLU|Swish|GELU|LeakyReLU|PReLU|ELU|BlurPool")
_GROUPS = 32
_STRIDES = {
    first: {("0.conv1", (1, 1), (2, 2) if first else (1, 1)), ("0.conv2", (3, 3), (1, 1) if first else (2, 2))}
    for first in (True, False)
}
"""Stride in the 1x1 -> the second stage's first block of bottlenecks: name, kernel, stride."""


def module_facts(tree: Any) -> list[KnownFacts]:
    """The eps of the norms in its stages, if all have one; the place of the strides, if it is one of the two."""
    eps = {float(module["eps"]) for _, _, module in _in_stages(tree) if _is_eps(module.get("eps"))}
    blocks = {
        (inner, module.get("kernel_size"), module.get("stride"))
        for stage, inner, module in _in_stages(tree)
        if stage == 2 and inner in ("0.conv1", "0.conv2")
    }
    known = KnownFacts(
        _WHERE,
        stride_in_1x1=next((first for first, block in _STRIDES.items() if block == blocks), None),
        norm_eps=eps.pop() if len(eps) == 1 else None,
    )
    return [] if known == KnownFacts(_WHERE) else [known]


def module_variants(tree: Any) -> Iterator[tuple[str, str]]:
    """(what it is, where it says so) of what makes it another network than a plain ResNet of the same tensors."""
    strides: dict[int, set[Any]] = {}
    for stage, inner, module in _in_stages(tree):
        where = f"{_WHERE} ({inner} of stage {stage})"
        if module.get("dilation", (1, 1)) not in ((1, 1), 1):
            yield f"dilation={module['dilation']}", where
        if (groups := module.get("num_groups", _GROUPS)) != _GROUPS:
            yield f"GroupNorm of {groups} groups, not {_GROUPS}", where
        if match := _OTHER.search(module["class"].rpartition(".")[2]):
            yield f"{match[0]}, which a plain ResNet has nowhere", where
        if inner.startswith("0.") and "stride" in module:
            strides.setdefault(stage, set()).add(module["stride"])
    for stage, seen in strides.items():
        if stage > 1 and not seen & {(2, 2), 2}:
            yield f"no stride in stage {stage}", _WHERE


def _in_stages(tree: Any) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    """(stage 1 to 4, path within it, attributes) of all modules of ResNets' stages in the pickled models of a file."""
    for model in _models(tree):
        for path, module in model.modules.items():
            if match := _STAGE.fullmatch(path):
                yield int(match["layer"] or 0) or int(match["res"]) - 1, match["inner"], module


def _models(tree: Any) -> Iterator[Placeholder]:
    if isinstance(tree, Placeholder) and tree.modules:
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _models(value)


def _is_eps(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < 1
