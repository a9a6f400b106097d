"""Norms with another eps than their family's: taken up by the running variances where those can, else kept.

A norm computes ``(x - mean) * gain / sqrt(variance + eps) + bias``. Detectron2 has one eps for all norms of a kind, so
weights of another are of use to it only if ``variance + eps`` can stay what it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from scaleprior.backbones.readers.facts import ReadOptions
from scaleprior.backbones.readers.limits import RefusedFileError
from scaleprior.backbones.readers.report import Report, some
from scaleprior.backbones.trunks.family import TrunkSpec
from scaleprior.backbones.trunks.model import same_eps
from scaleprior.wording import parameter

__all__ = ["fold_eps", "rescale_gains", "settle_eps", "variances_of"]


def settle_eps(
    tensors: dict[str, np.ndarray], arch: TrunkSpec, eps: float | None, path: Path, options: ReadOptions, report: Report
) -> float:
    """What the card says that the norms add to the variance; puts the difference into the variances where they can.

    Args:
        eps: what the weights' norms add; None = what the family's do.

    Raises:
        RefusedFileError: nothing is added to a variance of 0, and nobody allows numbers that are not finite.
    """
    own = arch.family.eps
    if eps is None or same_eps(eps, own):
        return own
    variances = variances_of(tensors)
    if not eps:
        _refuse_zeros(variances, path, options, report)
    folded = fold_eps(variances, eps, own)
    if folded is not None:
        tensors.update(folded)
        report.notes.append(f"running variances hold the difference of eps {eps:g} and {own:g}")
        return own
    if variances:
        small = sum(int((v.astype(np.float64) + (eps - own) <= 0).sum()) for v in variances.values())
        why = f"{small} running variances are too small to take up the difference to {own:g}"
    else:
        why = f"{arch.norm} has no variances to take up the difference to {own:g}"
    report.notes.append(f"the norms keep their eps, {eps:g}: {why}")
    return float(eps)


def variances_of(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The running variances, by name, float32."""
    return {n: np.asarray(value, np.float32) for n, value in tensors.items() if n.endswith("running_var")}


def fold_eps(variances: Mapping[str, np.ndarray], eps: float, own: float) -> dict[str, np.ndarray] | None:
    """Variances that with ``own`` do what ``variances`` do with ``eps``; None where there are none that can.

    A variance smaller than the difference would turn negative. All others lose nothing: what rounding takes from the
    new one is at most half a unit in the last place of the sum, which rounding takes from the sum anyway. A norm whose
    statistics come from the batch, a BN that learns, has ``own`` added to those from then on.
    """
    folded = {name: value + np.float32(eps - own) for name, value in variances.items()}
    return folded if folded and all((value > 0).all() for value in folded.values()) else None


def rescale_gains(tensors: Mapping[str, np.ndarray], eps: float, own: float) -> dict[str, np.ndarray]:
    """Variances and gains that with ``own`` do what those of ``tensors`` do with ``eps``, in norms that stay frozen.

    Where a variance is too small for :func:`fold_eps` it becomes ``own``, and the gain is divided by as much as the
    channel's scale grew: the product of both is what it was, to rounding. Statistics of a batch know nothing of that.
    """
    changed: dict[str, np.ndarray] = {}
    for name, value in variances_of(tensors).items():
        before = value.astype(np.float64)
        after = before + (eps - own)
        small = after <= 0
        after[small] = own
        gain = name.replace("running_var", "weight")
        with np.errstate(divide="ignore", invalid="ignore"):  # a variance of 0 under eps 0: NaN before and after
            factor = np.where(small, np.sqrt((after + own) / (before + eps)), 1.0)
        changed[name] = after.astype(np.float32)
        changed[gain] = (tensors[gain] * factor).astype(np.float32)
    return changed


def _refuse_zeros(variances: Mapping[str, np.ndarray], path: Path, options: ReadOptions, report: Report) -> None:
    zero = [name.removesuffix(".running_var") for name, value in variances.items() if not value.all()]
    if not zero:
        return
    said = f"with eps 0, {len(zero)} norms divide by variances of 0 ({some(zero)})"
    if not options.allow_nonfinite:
        raise RefusedFileError(
            "numbers",
            f"{path}: {said}",
            hint="their own network gives NaN there: look up what eps it has; "
            f"{parameter('allow_nonfinite', True)} takes it nevertheless",
        )
    report.notes.append(said)
