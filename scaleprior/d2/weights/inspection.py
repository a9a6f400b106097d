"""A built model held against a backbone's card: what contradicts, and what could not be checked.

Every trunk that the backbone fills is looked at by itself, with the detector around it: a student and a teacher, a
detector inside a wrapper of somebody's own. Messages speak the user's config system: KEY VALUE words of yacs where the
model was built from such a config, else assignments as a LazyConfig takes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from scaleprior.backbones.card import Card
from scaleprior.backbones.contract import NORM_EPS, Mismatch
from scaleprior.backbones.trunks.model import same_eps
from scaleprior.d2.weights.built import BuiltFrom, from_config, note_around
from scaleprior.d2.weights.pixels import Statistics, attribute_around, loader_order, statistics_around
from scaleprior.d2.weights.places import TrunkPlace, dotted

__all__ = ["Findings", "inspect_model"]

_STRIDE = "MODEL.RESNETS.STRIDE_IN_1X1"
_ORDER = "INPUT.FORMAT"


@dataclass(frozen=True)
class _Assignment(Mismatch):
    """A mismatch in the words of a LazyConfig, or with a remedy of its own.

    Attributes:
        remedy: what settles it; "" = the assignment of the card's value.
    """

    remedy: str = ""

    @property
    def override(self) -> str:
        value = self.card_value
        text = "[" + ",".join(repr(v) for v in value) + "]" if isinstance(value, list) else str(value)
        return self.remedy or f"{self.key}={text}"


@dataclass(frozen=True)
class Findings:
    """What a look at a model gave.

    Attributes:
        mismatches: contradictions to the card.
        unchecked: what the model does not show, in words.
        where: the trunks at which there are contradictions, of several in the model.
    """

    mismatches: list[Mismatch] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    where: list[str] = field(default_factory=list)

    def add(self, found: Iterable[Mismatch | str], where: str) -> None:
        """Take in contradictions, and texts of what is not shown, that are not there yet."""
        for each in found:
            kept: list[Any] = self.unchecked if isinstance(each, str) else self.mismatches
            if each not in kept:
                kept.append(each)
            if kept is self.mismatches and where and where not in self.where:
                self.where.append(where)


def inspect_model(
    model: nn.Module, card: Card, places: Sequence[TrunkPlace], companions: Sequence[Any] = ()
) -> Findings:
    """Hold every trunk in ``places``, with what is around it, against ``card``.

    Compared: pixel mean and std, channel order, what the trunk's norms add to the variance, where bottlenecks stride.
    Depth, widths and kind of norm show in the tensors' names and shapes.

    Args:
        companions: what is saved and loaded beside the model: a trainer among them knows its config and its loader.
    """
    findings = Findings()
    for place in places:
        note = note_around(model, place.path) or _note_of(companions)
        for found in (
            _pixels(model, card, place, places, note),
            _order(model, card, place, note, companions),
            _norm_eps(model, card, place, note),
            _strides(model, card, place, note),
        ):
            findings.add(found, place.path if len(places) > 1 else "")
    return findings


def _note_of(companions: Iterable[Any]) -> BuiltFrom | None:
    for each in companions:
        try:
            cfg: Any = getattr(each, "cfg", None)
        except ReferenceError:  # trainers are held weakly
            continue
        if isinstance(cfg, CfgNode) and "INPUT" in cfg:
            return from_config(cfg)
    return None


def _pixels(
    model: nn.Module, card: Card, place: TrunkPlace, places: Sequence[TrunkPlace], note: BuiltFrom | None
) -> Iterator[Mismatch | str]:
    found = statistics_around(model, place, places)
    wanted = {"pixel_mean": card.pixel_mean, "pixel_std": card.pixel_std}
    if found is None:
        expected = " and ".join(f"{name} {list(value)}" for name, value in wanted.items())
        yield f"pixel statistics (no module around the trunk has any; it expects {expected} in {card.channel_order})"
        return
    for (name, value), own, numbers in zip(wanted.items(), found.names, (found.mean, found.std)):
        if numbers is None:
            yield f"{name} (nothing in the model has it; the backbone expects {list(value)})"
        elif not _same_numbers(numbers, value, found):
            if note is not None:
                yield Mismatch(f"MODEL.{name.upper()}", list(numbers), list(value))
            else:
                yield _Assignment(dotted("model", found.path, own), list(numbers), list(value))


def _same_numbers(numbers: Sequence[float], wanted: Sequence[float], found: Statistics) -> bool:
    def same(scale: float) -> bool:
        return len(numbers) == len(wanted) and all(abs(scale * a - b) <= 1e-3 * scale for a, b in zip(numbers, wanted))

    return same(1) or (found.scaled and same(255))


def _order(
    model: nn.Module, card: Card, place: TrunkPlace, note: BuiltFrom | None, companions: Sequence[Any]
) -> Iterator[Mismatch | str]:
    wanted, read = card.channel_order, loader_order(companions)
    lazy_key = "dataloader.train.mapper.image_format"
    silent = "the mapper of the training loader does not say in which order it reads"
    if note is not None:
        # Testing and DefaultPredictor go by the key, even where a mapper of somebody's own trains otherwise.
        if note.channel_order != wanted:
            yield Mismatch(_ORDER, note.channel_order, wanted)
        elif read == "":
            yield f"channel order ({_ORDER} is {wanted}, as the backbone expects; {silent})"
        elif read not in (None, wanted):
            remedy = f"a data mapper that reads images as {_ORDER} says"
            yield _Assignment("the image_format of the training data's mapper", read, wanted, remedy=remedy)
        return
    if read:
        if read != wanted:
            yield _Assignment(lazy_key, read, wanted)
        return
    path, shown = attribute_around(model, place, "input_format") or ("", None)  # for drawing; no loader asks for it
    key = dotted("model", path, "input_format")
    if shown is not None and shown != wanted:
        yield _Assignment(key, shown, wanted, remedy=f"{key}={wanted} {lazy_key}={wanted}")
        return
    known = f"{key} is {shown}, which only drawing goes by" if shown else "the model has no input_format"
    unknown = f"{lazy_key} is not known when weights are loaded" if read is None else silent
    yield f"channel order (the backbone expects {wanted}; {known}, and {unknown})"


def _norm_eps(model: nn.Module, card: Card, place: TrunkPlace, note: BuiltFrom | None) -> Iterator[Mismatch | str]:
    modules = dict(model.named_modules(remove_duplicate=False))
    owners = {name.rpartition(".")[0]: modules.get(name.rpartition(".")[0]) for name in place.filled}
    # a convolution with standardised weights (BiT's) has an eps, too
    norms: list[Any] = [m for m in owners.values() if hasattr(m, "eps") and not isinstance(m, nn.Conv2d)]
    if not norms:
        yield f"norm eps (nothing in the trunk has one; the backbone expects {card.norm_eps:g})"
    for eps in sorted({float(norm.eps) for norm in norms if not same_eps(norm.eps, card.norm_eps)})[:1]:
        if note is not None:
            yield Mismatch(NORM_EPS, eps, card.norm_eps)
        else:
            trunk = dotted("model", place.path)
            remedy = (
                f"eps {card.norm_eps:g} in the norms of {trunk}, or a backbone that `scaleprior backbone export` "
                f"makes for eps {eps:g}"
            )
            yield _Assignment(f"eps of {trunk}'s norms", eps, card.norm_eps, remedy=remedy)


def _strides(model: nn.Module, card: Card, place: TrunkPlace, note: BuiltFrom | None) -> Iterator[Mismatch | str]:
    if _STRIDE not in (card.arch.to_cfg_keys() or ()):
        return
    modules = dict(model.named_modules(remove_duplicate=False))
    # Whatever class they are of (plain, deformable, TridentNet's): a bottleneck is what has a third convolution.
    blocks = [name.removesuffix(".conv3.weight") for name in place.filled if name.endswith(".conv3.weight")]
    silent = 0
    for path in blocks:
        first, second = (_stride(modules.get(f"{path}.conv{number}")) for number in (1, 2))
        if first is None or second is None:
            silent += 1
        elif max(first, second) > 1 and (first > 1) != card.stride_in_1x1:
            if note is not None:
                yield Mismatch(_STRIDE, first > 1, card.stride_in_1x1)
            else:
                yield _Assignment(_stride_key(path), first > 1, card.stride_in_1x1)
    if silent:
        yield f"stride placement ({silent} blocks do not say where they stride; expected {card.stride_in_1x1} in 1x1)"


def _stride(convolution: Any) -> int | None:
    stride = getattr(convolution, "stride", None)
    stride = stride[0] if isinstance(stride, (tuple, list)) and stride else stride
    return stride if isinstance(stride, int) else None


def _stride_key(block: str) -> str:
    """``backbone.bottom_up.res3.0`` -> ``model.backbone.bottom_up.stages.stride_in_1x1``; C4's res5 in the heads has an
    argument of its own."""
    trunk = block.rpartition(".")[0].rpartition(".")
    where = f"{trunk[0]}.{trunk[2]}" if trunk[0].endswith("roi_heads") else f"{trunk[0]}.stages"
    return dotted("model", where.lstrip("."), "stride_in_1x1")
