"""Norms with another eps than the detectors'."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scaleprior.backbones.readers.facts import ReadOptions
from scaleprior.backbones.readers.report import Report
from scaleprior.backbones.trunks.family import TrunkSpec
from scaleprior.errors import UserError
from scaleprior.wording import parameter

__all__ = ["fold_eps"]


def fold_eps(tensors: dict[str, np.ndarray], arch: TrunkSpec, path: Path, options: ReadOptions, report: Report) -> None:
    """Put the difference between the weights' eps and the detectors' into the running variances.

    Raises:
        UserError: norms that keep no variances.
    """
    eps = arch.family.eps
    if options.norm_eps is None or options.norm_eps == eps:
        return
    if arch.norm != "BN":
        raise UserError(
            f"{path}: {parameter('norm_eps')} is {options.norm_eps:g}; {arch.name} has {arch.norm}, which cannot take "
            "it up",
            hint=f"only weights with eps {eps:g} give the same numbers there",
        )
    for name in [n for n in tensors if n.endswith("running_var")]:
        tensors[name] = np.asarray(tensors[name], np.float32) + np.float32(options.norm_eps - eps)
    report.notes.append(f"running variances hold the difference of eps {options.norm_eps:g} and {eps:g}")
