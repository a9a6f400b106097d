"""What a trunk in a built model is fed with: pixel statistics and channel order, found wherever they are kept.

Statistics are tensors of the detector (all of Detectron2's), a function that closes over them (detrex and other DETRs),
or those of a module that prepares images. The order is nothing that a model has: images are read in it by the data
mapper, which follows INPUT.FORMAT in a yacs config and ``dataloader.train.mapper.image_format`` in a LazyConfig.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.utils.serialize import PicklableWrapper
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from scaleprior.d2.weights.places import TrunkPlace, paths_above

__all__ = ["Statistics", "attribute_around", "loader_order", "statistics_around"]

_NAMES = (("pixel_mean", "pixel_std"), ("image_mean", "image_std"), ("mean", "std"))
# What holds the rest of a loader, in Detectron2's datasets and in those that wrap them.
_LINKS = ("_obj", "_map_func", "map_func", "mapper", "_mapper", "dataset", "_dataset", "datasets", "_loader", "loader")
_ORDERS = ("image_format", "img_format")  # the latter in mappers of DETR, Mask2Former, detrex


@dataclass(frozen=True)
class Statistics:
    """Pixel statistics that a model applies.

    Attributes:
        path: of the module that has them.
        names: what they are called there, or what its constructor calls them.
        mean, std: three numbers on the 0-255 scale; None = not found there.
    """

    path: str
    names: tuple[str, str]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    @property
    def scaled(self) -> bool:
        """They may be meant for pixels in [0, 1]: only Detectron2's names say that they are not."""
        return self.names != _NAMES[0]


def statistics_around(model: nn.Module, place: TrunkPlace, places: Sequence[TrunkPlace]) -> Statistics | None:
    """Those of the innermost module around a trunk that has any, else of a module beside the trunk in there.

    Args:
        places: all trunks in the model; what belongs to another one's detector is not this one's.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for path in paths_above(place.path):
        if found := _statistics(path, modules[path], _NAMES[:2]) or _probed(path, modules[path]):
            return found
        for name, child in modules[path].named_children():
            beside = f"{path}.{name}" if path else name
            if place.overlaps(beside) or any(other.is_below(beside) for other in places):
                continue
            for inner, module in child.named_modules(prefix=beside):
                if found := _statistics(inner, module, _NAMES):
                    return found
    return None


def _statistics(path: str, module: nn.Module, names: Iterable[tuple[str, str]]) -> Statistics | None:
    for pair in names:
        mean, std = (_numbers(getattr(module, name, None)) for name in pair)
        found = Statistics(path, pair, mean, std)
        # other names than Detectron2's may mean anything, unless both are there for three channels
        if (mean and std and len(mean) == len(std) == 3) if found.scaled else (mean or std):
            return found
    return None


def _numbers(value: Any) -> tuple[float, ...] | None:
    """A tensor's or a sequence's numbers; None for what is none, or has no values yet."""
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, (int, float, Tensor)) for v in value):
        parts = [torch.as_tensor(v, dtype=torch.float64).flatten().cpu() for v in value]
        value = torch.cat(parts)
    if not isinstance(value, Tensor) or value.is_meta or not value.is_floating_point() or not value.numel():
        return None
    return tuple(round(float(v), 4) for v in value.detach().flatten())


def _probed(path: str, module: nn.Module) -> Statistics | None:
    """What a ``normalizer`` makes of a black and a white pixel tells what it subtracts and divides by."""
    normalise: Any = getattr(module, "normalizer", None)
    if not callable(normalise):
        return None
    parameter = next(module.parameters(), None)
    pixel = torch.zeros(3, 1, 1, device=None if parameter is None else parameter.device)
    try:
        with torch.no_grad():
            black: Any = normalise(pixel)
            step: Any = normalise(pixel + 255) - black
    except Exception:  # somebody else's function, which may want anything: then it tells nothing
        return None
    if not isinstance(step, Tensor) or step.numel() != 3 or not bool(step.all()):
        return None
    std = 255 / step.double()
    return Statistics(path, _NAMES[0], _numbers(-black.double() * std), _numbers(std))


def attribute_around(model: nn.Module, place: TrunkPlace, name: str) -> tuple[str, Any] | None:
    """The path of the innermost module around a trunk that has an attribute ``name``, and its value."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for path in paths_above(place.path):
        value = getattr(modules[path], name, None)
        if value is not None:
            return path, value
    return None


def loader_order(parts: Iterable[Any]) -> str | None:
    """The order in which the training images of a run are read, by its data mapper.

    Args:
        parts: what may be a trainer: has a ``data_loader``.

    Returns:
        "RGB", "BGR", ...; "" where nothing in the loader says so, as with a mapper that is a function. None: no loader.
    """
    found = None
    for part in parts:
        try:
            loader = getattr(part, "data_loader", None)
        except (AttributeError, ReferenceError):  # a trainer that is not complete yet, or gone
            continue
        if loader is not None:
            found = found or _order(loader, set()) or ""
    return found


def _order(holder: Any, seen: set[int]) -> str | None:
    if id(holder) in seen:
        return None
    seen.add(id(holder))
    inside: Mapping[str, Any] = getattr(holder, "__dict__", {})
    for name in _ORDERS:
        if isinstance(inside.get(name), str):
            return inside[name]
    for name, value in inside.items():
        for each in value if isinstance(value, (list, tuple)) and name in _LINKS else (value,):
            if name in _LINKS or isinstance(each, (Dataset, DataLoader, PicklableWrapper)):
                order = _order(each, seen)
                if order is not None:
                    return order
    return None
