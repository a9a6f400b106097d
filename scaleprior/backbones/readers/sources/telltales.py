"""Values in weights that betray what their pixels were like: evidence against an assumption, never a fact by itself.

Two are looked at. Norms that all have mean 0 and variance 1 beside trained gains are affine layers, as Caffe's
conversions have them. And the first norm's running statistics, which are those of the first convolution's output on the
training images: under given pixel statistics an input channel has the mean ``(natural mean - pixel_mean) / pixel_std``,
the output of a filter its weights' sum over places times that. Its variance follows from the covariance of natural
pixels, here that of colours (ImageNet's principal components, Krizhevsky et al. 2012, with the numbers that trainings
use for their colour noise) times a correlation that falls by e in ten pixels. Padding is neglected.

It rests on this: the training images were photographs. Measured on photographs (Tiny-ImageNet: as they are, enlarged,
mixed, grey, blurred, bright, dark, of single classes) and on noise of their spectrum, through random stems and stems
trained on them, 303 to 305 cases for each set of usual values: the true one never raised an alarm. Taken for
torchvision's, pixels in 0..1 were found out in 269 cases and undivided ones in 207. Sets closer to each other
(torchvision's, CLIP's, 127.5) are hardly told apart, RGB and BGR not at all.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaleprior.backbones.trunks.published import IMAGENET_MEAN, USUAL, Origin, Triple
from scaleprior.errors import UserError
from scaleprior.wording import parameter

__all__ = ["affine_norms", "check_telltales", "doubts", "stem_evidence"]

_RGB_COVARIANCE = 255.0**2 * np.array([[0.0805, 0.0702, 0.0634], [0.0702, 0.0764, 0.0722], [0.0634, 0.0722, 0.0839]])
"""Of pixels on the 0-255 scale: V diag(0.2175, 0.0188, 0.0045) V^T with the eigenvectors of the same place."""
_REACH = 10.0
"""Pixels in which the correlation of two pixels falls by e, in crops of 224."""
_STEMS = (("stem.conv1.weight", "stem.conv1.norm."), ("stem.conv1.conv.weight", "stem.conv1.bn."))
"""First convolution and its norm: ResNets, CLIP."""
_FITTING_SCALE, _CONTRADICTING_SCALE = 0.5, 1.0  # natural logarithms of ratios of standard deviations
_EXPLAINED, _NOTHING_TO_EXPLAIN = 0.9, 0.2  # share of the means' energy; means in standard deviations of the outputs
_RAW = "pixels in 0..255 as they are"


@dataclass(frozen=True)
class _Stem:
    weight: np.ndarray  # [F, 3, k, k]
    mean: np.ndarray  # [F], of the outputs over the training images
    variance: np.ndarray


@dataclass(frozen=True)
class _Fit:
    """How well pixel statistics explain a stem: (explained share, logarithm of scale), both of its outputs."""

    explains_mean: bool
    explained: float
    scale: float


def check_telltales(
    tensors: Mapping[str, Any], facts: Mapping[str, Any], origins: Mapping[str, Origin], where: str
) -> list[str]:
    """Sentences on values that contradict pixel statistics which somebody states.

    Args:
        tensors: canonical names, before anything is added to them.
        facts, origins: what is known; pixel statistics may be missing.

    Raises:
        UserError: nobody states them, and what was assumed cannot be.
    """
    mean, std, order = (facts.get(name) for name in ("pixel_mean", "pixel_std", "channel_order"))
    if mean is None or std is None or order is None:
        return []
    said = doubts(tensors, mean, std, order)
    assumed = [name for name in ("pixel_mean", "pixel_std", "channel_order") if origins[name].kind == "assumed"]
    if said and assumed:
        raise UserError(
            f"{where}: {', '.join(assumed)} cannot be as assumed: {said[0]}",
            hint=f"take the set that fits ({parameter('assume', words='NAME')}), or give what you know",
        )
    return said


def doubts(tensors: Mapping[str, Any], mean: Triple, std: Triple, order: str) -> list[str]:
    """A sentence for each tell-tale that contradicts these pixel statistics."""
    found = (_affine_evidence(tensors, std, order), stem_evidence(tensors, mean, std, order))
    return [sentence for sentence in found if sentence is not None]


def _affine_evidence(tensors: Mapping[str, Any], std: Triple, order: str) -> str | None:
    if (set(std) == {1.0} and order == "BGR") or not (count := affine_norms(tensors)):
        return None
    return (
        f"all {count} norms have mean 0 and variance 1, as Caffe's weights have that were given torchvision's names; "
        "those take BGR with std 1, most with the stride in the 1x1: the usual ones of msra"
    )


def affine_norms(tensors: Mapping[str, Any]) -> int:
    """How many norms there are, if all have mean 0 and variance 1 and most have gains that were trained; else 0."""
    means = [name for name in tensors if name.endswith("running_mean")]
    trained = 0
    for name in means:
        stem = name.removesuffix("running_mean")
        if f"{stem}weight" not in tensors or f"{stem}running_var" not in tensors:
            return 0
        gain, variance = np.asarray(tensors[f"{stem}weight"]), np.asarray(tensors[f"{stem}running_var"])
        if np.any(np.asarray(tensors[name])) or np.any(variance != 1):
            return 0
        trained += bool(np.any(gain != gain[0]))
    return len(means) if 2 * trained > len(means) else 0


def stem_evidence(tensors: Mapping[str, Any], mean: Triple, std: Triple, order: str) -> str | None:
    """A sentence on the first norm's statistics if they contradict these pixel statistics and fit other usual ones.

    Statistics that are nobody's usual ones are not judged: they are those of images of their own, of which nothing is
    known here.

    Args:
        tensors: canonical names; arrays or tensors.
        mean, std: on the 0-255 scale, in ``order``.
    """
    stem = _stem(tensors)
    sets = _sets()
    own = next((name for name, its in sets.items() if np.allclose(its[:2], (mean, std), rtol=0.01, atol=1)), None)
    if stem is None or own is None:
        return None
    taken = _fit(stem, mean, std, order)
    if abs(taken.scale) < _CONTRADICTING_SCALE or taken.explained > 0.2:
        return None
    fits = {name: _fit(stem, *its) for name, its in sets.items()}
    fitting = [name for name, fit in fits.items() if fit.explains_mean and abs(fit.scale) < _FITTING_SCALE]
    if not fitting:
        return None
    factor = float(np.exp(abs(taken.scale)))
    side = "larger" if taken.scale > 0 else "smaller"
    return (
        f"the first norm's statistics are {factor:.1f} times {side} than photographs give with these pixel statistics; "
        f"those of {', '.join(sorted(fitting, key=lambda name: abs(fits[name].scale)))} fit"
    )


@functools.cache
def _sets() -> dict[str, tuple[Triple, Triple, str]]:
    sets: dict[str, tuple[Triple, Triple, str]] = {_RAW: ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "RGB")}
    for name, usual in USUAL.items():
        facts = usual.facts
        if facts.pixel_mean and facts.pixel_std and facts.channel_order:
            sets[name] = (facts.pixel_mean, facts.pixel_std, facts.channel_order)
    return sets


def _stem(tensors: Mapping[str, Any]) -> _Stem | None:
    """None: a stem of another kind, or statistics that no image has moved."""
    for convolution, norm in _STEMS:
        names = (convolution, f"{norm}running_mean", f"{norm}running_var")
        if all(name in tensors for name in names):
            weight, mean, variance = (np.asarray(tensors[name], np.float64) for name in names)
            moved = mean.any() and (variance != 1).any()
            if weight.ndim == 4 and weight.shape[1] == 3 and moved and (variance > 0).all() and weight.any():
                return _Stem(weight, mean, variance)
    return None


def _fit(stem: _Stem, mean: Triple, std: Triple, order: str) -> _Fit:
    turn = slice(None) if order == "RGB" else slice(None, None, -1)
    natural, covariance = np.array(IMAGENET_MEAN)[turn], _RGB_COVARIANCE[turn, turn]
    means = stem.weight.sum(axis=(2, 3)) @ ((natural - mean) / std)
    colours = covariance / np.outer(std, std)
    flat = stem.weight.reshape(*stem.weight.shape[:2], -1)  # [F, 3, places]
    # each pair of colours: w_c^T R w_d summed over filters
    pairs = np.einsum("fci,ij,fdj->cd", flat, _correlation(stem.weight.shape[2]), flat, optimize=True)
    scale = 0.5 * np.log(stem.variance.sum() / (pairs * colours).sum())
    missed = float(((stem.mean - means) ** 2).sum())
    explained = 1 - missed / float((stem.mean**2).sum())
    little = missed < _NOTHING_TO_EXPLAIN**2 * float(stem.variance.sum())
    return _Fit(explained > _EXPLAINED or little, explained, float(scale))


@functools.cache
def _correlation(side: int) -> np.ndarray:
    """[side^2, side^2] between the places of a filter."""
    places = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1).reshape(-1, 2)
    return np.exp(-np.linalg.norm(places[:, None] - places[None], axis=-1) / _REACH)
