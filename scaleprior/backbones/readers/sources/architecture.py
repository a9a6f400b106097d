"""A stated architecture, held against the one that the tensors tell: some networks have the names of others.

``resnetblur50`` and ``resnetaa50`` have every tensor of a ``resnet50`` and compute something else. What a file, a
``config.json`` or the user names is therefore built by timm, without memory, and compared with the trunk, module by
module. torchvision's builders of ResNets have the same names in timm.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.backbones.readers.sources.timm_args import ARGS, timm_args
from scaleprior.backbones.readers.sources.values import attributes, json_beside
from scaleprior.backbones.trunks.family import TrunkSpec
from scaleprior.errors import UserError
from scaleprior.wording import parameter, printable, shown

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Stated", "check_stated", "stated_architectures", "stated_norm", "timm_norm_eps"]

_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?", re.IGNORECASE)
"""timm's names; what has a colon or a slash would make timm read a folder or ask its hub."""
_CHANGING = ("act_layer", "aa_layer", "norm_layer", "output_stride", "avg_down")
"""Arguments of timm's ResNets that make another network of the same tensors."""
_HARMLESS = frozenset(
    {"num_classes", "in_chans", "global_pool", "drop_rate", "drop_path_rate", "drop_block_rate", "zero_init_last"}
)
_BEHIND = ("fc.", "head.", "global_pool.", "classifier.", "head_drop.")
_REASONS = {
    "BlurPool2d": "it blurs before it strides",
    "AvgPool2d": "it averages before it strides",
    "SEModule": "it has squeeze-and-excitation",
}


@dataclass(frozen=True)
class Stated:
    """An architecture that somebody names.

    Attributes:
        name: as timm or torchvision calls it.
        origin: who does, in words.
        settings: arguments of timm's builder beside the name.
        by_user: in an option, which beats what the file says.
    """

    name: str
    origin: str
    settings: tuple[tuple[str, Any], ...] = ()
    by_user: bool = False


def stated_architectures(tree: Any, path: Path, timm_model: str | None) -> list[Stated]:
    """What names the architecture: the user, a ``config.json`` of timm's, arguments and entries of the checkpoint.

    Args:
        timm_model: the name that the user gives, which is the only one then.
    """
    if timm_model is not None:
        return [Stated(timm_model, f"{parameter('timm_model', timm_model)}", by_user=True)]
    found = []
    config = json_beside(path, "config.json")
    if isinstance(config.get("pretrained_cfg"), dict):
        settings = _settings(config.get("model_args"))
        found.append((config.get("architecture"), f"{path.parent / 'config.json'}", settings))
    tree = tree if isinstance(tree, Mapping) else {}
    args, hyper = attributes(tree.get("args")), attributes(tree.get("hyper_parameters"))
    if (of_timm := timm_args(tree)) is not None:
        found.append((of_timm["model"], f"model in the {ARGS}", _settings(of_timm.get("model_kwargs"))))
    else:
        found += [(args.get(key), f"args.{key} in the file", ()) for key in ("arch", "model", "backbone")]
        found.append((tree.get("arch"), "arch in the file", ()))
        found.append((hyper.get("arch"), "hyper_parameters.arch in the file", ()))
    return [Stated(name, origin, settings) for name, origin, settings in found if isinstance(name, str) and name]


def _settings(value: Any) -> tuple[tuple[str, Any], ...]:
    kept = {key: item for key, item in attributes(value).items() if isinstance(key, str) and key not in _HARMLESS}
    return tuple((key, kept[key]) for key in sorted(kept))


def check_stated(arch: TrunkSpec, stated: Stated, where: str) -> str | None:
    """Compare the trunk that the tensors are of with the stated one; returns a sentence if that could not be done.

    Raises:
        UserError: they differ; says in what.
    """
    says = f"{stated.origin} says {printable(stated.name[:100])}"
    theirs = _signature(stated.name, stated.settings) if _settings_are_plain(stated) else None
    if theirs is None:
        what = f" with {shown(dict(stated.settings))}" if stated.settings else ""
        return f"{says}{what}, which timm does not build; it was not compared with the tensors"
    differences = _differences(theirs, _signature_of(arch))
    if differences:
        raise UserError(
            f"{where}: {says}; its tensors are those of {arch.name}, and the two differ: {differences[0]}",
            hint="what has the names of another network cannot be read as that; take weights of a plain one, or name "
            f"the right one by {parameter('timm_model', words='NAME')}",
        )
    return None


def stated_norm(stated: list[Stated]) -> str | None:
    """ "GN" where a stated network has GroupNorm; its tensors alone could be folded BatchNorm, too."""
    signatures = [_signature(one.name, one.settings) for one in stated if _settings_are_plain(one)]
    return "GN" if any(kind == "GroupNorm" for found in signatures for kind, _ in (found or {}).values()) else None


@functools.lru_cache(maxsize=32)
def timm_norm_eps(name: str) -> float | None:
    """What the norms of timm's network add to the variance; None = timm has none of that name, or they differ."""
    body = _built(name, ())
    modules: Any = [] if body is None else body.modules()
    found = {float(module.eps) for module in modules if "Norm" in type(module).__name__ and hasattr(module, "eps")}
    return found.pop() if len(found) == 1 else None


def _built(name: str, settings: tuple[tuple[str, Any], ...]) -> nn.Module | None:
    """timm's network on torch's meta device, without classifier; None = it builds none."""
    import timm
    import torch

    base = name.split(".")[0]
    if not _NAME.fullmatch(name) or not timm.is_model(base):
        return None
    try:
        with torch.device("meta"):
            return timm.create_model(base, pretrained=False, num_classes=0, **dict(settings))
    except Exception:  # any: settings in a file may be of another version of timm, or nonsense
        return None


def _settings_are_plain(stated: Stated) -> bool:
    return all(key in _CHANGING and isinstance(value, (str, int)) for key, value in stated.settings)


Signature = Mapping[
    str, tuple[str, str]
]  # place of a module without modules in it -> (its class, all it says of itself)


@functools.lru_cache(maxsize=32)
def _signature(name: str, settings: tuple[tuple[str, Any], ...]) -> Signature | None:
    """Of the network that timm builds; None = it builds none."""
    body = _built(name, settings)
    return None if body is None else _read_off(body)


@functools.lru_cache(maxsize=32)
def _signature_of(arch: TrunkSpec) -> Signature:
    """Of the trunk, with its stride where timm and torchvision have it: where it is is stated elsewhere."""
    import torch

    with torch.device("meta"):
        return _read_off(arch.family.build(arch.family.refine(arch, stride_in_1x1=False)))


def _read_off(body: nn.Module) -> Signature:
    found = {}
    for place, module in body.named_modules():
        kind = type(module).__name__
        if place.startswith(_BEHIND) or next(module.children(), None) is not None or kind == "Identity":
            continue
        if "Norm" in kind or "BatchNorm" in kind:
            kind = "BatchNorm" if "Batch" in kind else "GroupNorm" if "Group" in kind else "LayerNorm"
            said = str(getattr(module, "num_groups", ""))
        else:
            said = module.extra_repr().replace("inplace=True", "").replace("inplace=False", "")
        found[place] = (kind, said)
    return found


def _differences(theirs: Signature, ours: Signature) -> list[str]:
    """What the stated network has otherwise, best explanation first."""
    blocks = [_blocks(signature) for signature in (theirs, ours)]
    if blocks[0] != blocks[1]:
        return [f"{blocks[0]} blocks in its stages, the tensors have {blocks[1]}"]
    found = []
    for place in [*theirs, *(place for place in ours if place not in theirs)]:
        a, b = theirs.get(place), ours.get(place)
        if a == b:
            continue
        words = [f"{kind}({said})" if said else kind for kind, said in filter(None, (a, b))]
        if a is None:
            found.append(f"it lacks {place}, {words[0]}")
        elif b is None:
            reason = _REASONS.get(a[0])
            found.append(f"{reason} ({place}: {words[0]})" if reason else f"it has {place}, {words[0]}")
        else:
            found.append(f"{place} is {words[0]}, not {words[1]}")
    return sorted(found, key=lambda words: not words.startswith(tuple(_REASONS.values())))


def _blocks(signature: Signature) -> list[int]:
    """Residual blocks in each stage, in timm's two ways to name them."""
    counts: dict[int, int] = {}
    for place in signature:
        if match := re.match(r"(?:layer|stages\.)(\d)\.(?:blocks\.)?(\d+)\.", place):
            counts[int(match[1])] = max(counts.get(int(match[1]), 0), int(match[2]) + 1)
    return [counts[stage] for stage in sorted(counts)]
