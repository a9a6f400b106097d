"""Look at a backbone's numbers as an experienced eye would: finite, alive, trained, whole; and say so in words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scaleprior.backbones.assumed import assumed_words
from scaleprior.backbones.card import UNKNOWN, Card
from scaleprior.backbones.settings import config_lines
from scaleprior.backbones.trunks.model import same_eps

if TYPE_CHECKING:
    from torch import Tensor

    from scaleprior.backbones.readers.draft import Draft
    from scaleprior.backbones.trunks.family import TrunkSpec

__all__ = ["Finding", "Verdict", "verify_backbone"]

_DEAD_GAIN = 1e-6  # a channel this quiet stays below float32's resolution of its neighbours
_DEAD_VARIANCE = 1e-7  # of eps, under which it is lost
_MANY_DEAD = 0.05  # share; trained ImageNet ResNets have a few per cent at most
_INIT_TOLERANCE = 0.02  # of a fresh convolution's standard deviation; sampling alone gives less than 1 %
_ENOUGH = 4096  # weights in a convolution whose standard deviation says something


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: "good", "warning" or "bad".
        what: a sentence.
        tensors: the tensors it is about.
    """

    level: str
    what: str
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """All findings, and what they amount to.

    Attributes:
        level: the worst finding's.
        words: the verdict in one sentence.
        config: ``KEY VALUE`` lines that a detection config needs (empty for timm's trunks).
        statistics: figures per stage: tensors, parameters, standard deviation of convolutions, dead channels.
    """

    level: str
    words: str
    findings: tuple[Finding, ...]
    config: tuple[str, ...]
    statistics: dict[str, dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        findings = [{**f.__dict__, "tensors": list(f.tensors)} for f in self.findings]
        return {**self.__dict__, "findings": findings, "config": list(self.config)}


def verify_backbone(tensors: Mapping[str, Tensor], card: Card | Draft) -> Verdict:
    """Examine canonical tensors; never raises for what it finds in them.

    Args:
        card: or what is known of a file that lacks facts; the verdict then says which, and has no config.
    """
    if isinstance(card, Card):
        from scaleprior.backbones.readers.sources import doubts

        said = doubts(tensors, card.pixel_mean, card.pixel_std, card.channel_order)
        gaps = [*_card_gaps(card), *(Finding("warning", sentence) for sentence in said)]
        return _verdict(tensors, card.name, card.arch, card.norm_eps, gaps, config_lines(card))
    known = card.fields
    if not card.missing:
        return verify_backbone(tensors, card.card())
    unsaid = Finding("warning", f"nobody says {', '.join(card.missing)}; it must be known before it can be converted")
    return _verdict(
        tensors, known["name"], known["arch"], known.get("norm_eps", known["arch"].family.eps), [unsaid], []
    )


def _verdict(
    tensors: Mapping[str, Tensor],
    name: str,
    arch: TrunkSpec,
    eps: float,
    gaps: Sequence[Finding],
    config: Sequence[str],
) -> Verdict:
    dead = _dead_channels(tensors, eps)
    findings = [_numbers(tensors), _alive(tensors, dead), _trained(tensors), *gaps]
    level = max((f.level for f in findings), key=("good", "warning", "bad").index)
    words = {
        "good": f"{name} looks like a whole, trained {arch.name}; it can be used",
        "warning": f"{name} is a whole {arch.name}, but look at the warnings before using it",
        "bad": f"do not use {name}: " + "; ".join(f.what for f in findings if f.level == "bad"),
    }[level]
    return Verdict(level, words, tuple(findings), tuple(config), _statistics(tensors, dead, arch))


def _numbers(tensors: Mapping[str, Tensor]) -> Finding:
    from scaleprior.backbones.readers.read import finite

    wrong = tuple(name for name in sorted(tensors) if not finite(tensors[name]))
    negative = tuple(n for n in sorted(tensors) if n.endswith("running_var") and bool((tensors[n] < 0).any()))
    if wrong:
        return Finding("bad", f"{len(wrong)} of {len(tensors)} tensors hold NaN or infinity", wrong)
    if negative:
        return Finding("bad", f"{len(negative)} running variances are negative", negative)
    parameters = sum(t.numel() for t in tensors.values())
    return Finding("good", f"all {len(tensors)} tensors ({parameters:,} numbers) are finite")


def _dead_channels(tensors: Mapping[str, Tensor], eps: float) -> dict[str, tuple[int, int]]:
    """Norm -> (channels that carry nothing, channels): a gain of 0, or statistics of an input that never changes."""
    found = {}
    for name, variance in tensors.items():
        if name.endswith("running_var"):
            gain = tensors[name.replace("running_var", "weight")]
            quiet = (gain.abs() <= _DEAD_GAIN) | (variance.abs() <= _DEAD_VARIANCE * eps)
        elif re.search(r"norm\d?\.weight$", name) and name.replace("weight", "running_var") not in tensors:
            quiet = tensors[name].abs() <= _DEAD_GAIN
        else:
            continue
        found[re.sub(r"\.(running_var|weight)$", "", name)] = (int(quiet.sum()), quiet.numel())
    return found


def _alive(tensors: Mapping[str, Tensor], dead: Mapping[str, tuple[int, int]]) -> Finding:
    total, quiet = sum(n for _, n in dead.values()), sum(n for n, _ in dead.values())
    filters = sum(int((t.flatten(1).abs().amax(1) == 0).sum()) for t in tensors.values() if t.ndim == 4)
    where = tuple(name for name, (count, _) in sorted(dead.items(), key=lambda item: -item[1][0]) if count)
    said = f"{quiet} of {total} norm channels are dead"
    if filters:
        said += f", {filters} convolution filters are all zero"
    whole = [name for name, (count, channels) in dead.items() if count == channels]
    if whole:
        return Finding("warning", f"{said}; in {len(whole)} norms every channel is ({whole[0]}, ...)", where)
    level = "warning" if total and quiet > _MANY_DEAD * total else "good"
    return Finding(level, said, where)


def _trained(tensors: Mapping[str, Tensor]) -> Finding:
    """Fresh norms are exactly 1 (or 0) and 0; fresh convolutions have He's standard deviation and mean 0."""
    gains = [n for n in tensors if re.search(r"(norm\d?|bn)\.weight$", n)]
    fresh_norms = tuple(n for n in gains if _fresh_norm(tensors, n))
    convolutions = [n for n, t in tensors.items() if t.ndim == 4 and t.numel() >= _ENOUGH]
    fresh_convolutions = tuple(n for n in convolutions if _fresh_convolution(tensors[n]))
    share_norms = len(fresh_norms) / max(1, len(gains))
    share = len(fresh_convolutions) / max(1, len(convolutions))
    said = f"{len(fresh_norms)} of {len(gains)} norms and {len(fresh_convolutions)} of {len(convolutions)} convolutions"
    if share_norms > 0.9 and share <= 0.1 and _statistics_moved(tensors):
        what = f"gains are 1 and biases 0 in {len(fresh_norms)} of {len(gains)} norms, as of affine=False; all else"
        return Finding("warning", f"{what} looks trained", fresh_norms)
    if share_norms > 0.9:
        return Finding("bad", f"it looks untrained: {said} are as initialised", fresh_norms + fresh_convolutions)
    if share_norms > 0.1:
        return Finding("warning", f"parts look untrained: {said} are as initialised", fresh_norms + fresh_convolutions)
    if share > 0.9:
        what = f"its convolutions have the statistics of fresh ones ({said}); trained briefly or with random norms"
        return Finding("warning", what, fresh_convolutions)
    return Finding("good", f"it looks trained: {said} are as initialised")


def _fresh_norm(tensors: Mapping[str, Tensor], gain: str) -> bool:
    stem = gain.removesuffix("weight")
    weight, bias = tensors[gain], tensors.get(f"{stem}bias")
    return bool((weight == weight[0]).all()) and float(weight[0]) in (0.0, 1.0) and (bias is None or not bias.any())


def _statistics_moved(tensors: Mapping[str, Tensor]) -> bool:
    """Whether no norm has the running statistics that norms begin with."""
    means = [tensor for name, tensor in tensors.items() if name.endswith("running_mean")]
    return bool(means) and all(bool(mean.any()) for mean in means)


def _fresh_convolution(weight: Tensor) -> bool:
    outputs, inputs, height, width = weight.shape
    deviation = float(weight.double().std())
    if abs(float(weight.double().mean())) > 4 * deviation / math.sqrt(weight.numel()):
        return False
    he = [math.sqrt(2 / (n * height * width)) for n in (outputs, inputs)]
    return any(abs(deviation / expected - 1) < _INIT_TOLERANCE for expected in he)


def _card_gaps(card: Card) -> list[Finding]:
    unknown = [
        name
        for name, value in (
            ("licence", card.licence), ("images", card.images), ("corpus", card.corpus.get("name"))
        ) if value in (None, UNKNOWN)
    ]  # fmt: skip
    gaps = [Finding("good", f"the card does not know: {', '.join(unknown)}")] if unknown else []
    if card.assumed:
        gaps.append(Finding("warning", assumed_words(card)))
    if fresh := card.recipe.get("fresh_tensors"):
        gaps.append(Finding("warning", f"{len(fresh)} tensors were missing and are fresh", tuple(fresh)))
    if dropped := card.recipe.get("dropped_tensors"):
        what = f"{dropped['count']} tensors of the file had no place in a {card.arch.name} and were dropped"
        gaps.append(Finding("warning", what, tuple(dropped["names"])))
    eps = card.arch.family.eps
    if not same_eps(card.norm_eps, eps):
        what = f"its norms have eps {card.norm_eps:g}, not {eps:g}: detectors here build that, stock Detectron2 cannot"
        gaps.append(Finding("good", what))
    return gaps


def _statistics(
    tensors: Mapping[str, Tensor], dead: Mapping[str, tuple[int, int]], arch: TrunkSpec
) -> dict[str, dict[str, float]]:
    """By part of the trunk, from the stem to what is behind the last stage."""
    part_of = arch.family.part_of
    stages: dict[str, dict[str, float]] = {}
    squares: dict[str, list[float]] = {}
    for name, tensor in tensors.items():
        row = stages.setdefault(part_of(name), {"tensors": 0, "parameters": 0, "conv_std": 0.0, "dead_channels": 0})
        row["tensors"] += 1
        row["parameters"] += tensor.numel()
        if tensor.ndim == 4:
            squares.setdefault(part_of(name), []).append(float(tensor.double().square().mean()))
    for stage, values in squares.items():
        spread = math.sqrt(sum(values) / len(values))
        stages[stage]["conv_std"] = spread if math.isfinite(spread) else -1.0
    for norm, (count, _) in dead.items():
        stages[part_of(norm)]["dead_channels"] += count
    return dict(sorted(stages.items(), key=lambda item: _order(item[0])))


def _order(part: str) -> tuple[bool, bool, str]:
    numbered = part[-1].isdigit()
    return (part != "stem", not numbered, part)
