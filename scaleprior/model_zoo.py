"""``scaleprior.model_zoo``: backbones by name.

``list()``, ``get(name)`` and ``fetch(name)`` speak of the catalogue, ``add(file, name)`` and ``remove(name)`` of one's
own backbones in it; ``with_backbone`` puts a backbone under a detector of Detectron2's own zoo, and needs Detectron2
when it is called.
"""

from __future__ import annotations

import builtins
import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.progress import ProgressFn, watched

if TYPE_CHECKING:
    from scaleprior.backbones.zoo.entry import Entry

__all__ = ["add", "fetch", "get", "list", "remove", "with_backbone"]


def list(pattern: str = "*") -> builtins.list[str]:
    """Names that match ``pattern`` (``"*jft*"``), as ``scaleprior zoo list`` orders them; each is good for ``get``,
    and with ``scaleprior://`` in front wherever weights are asked for."""
    from scaleprior.backbones.zoo import load_catalogue

    return [entry.name for entry in load_catalogue().ordered() if fnmatch.fnmatch(entry.name, pattern)]


def get(name: str) -> Entry:
    """All that is known of a backbone: trunk, corpus, images, supervision, licence, where its weights are.

    Raises:
        UserError: no such name; lists the nearest.
    """
    from scaleprior.backbones.zoo import load_catalogue

    return load_catalogue().find(name.removeprefix("scaleprior://"))


def fetch(name: str, *, progress: ProgressFn | bool = False) -> Path:
    """The canonical file that ``scaleprior://NAME`` stands for, downloaded and converted if the cache lacks it.

    Raises:
        UserError: no such name, weights that are not public, or offline and not cached. FailureError: no download.
    """
    from scaleprior.backbones.zoo import canonical

    name = name.removeprefix("scaleprior://")
    with watched(progress, f"fetching {name}", unit="bytes") as report:
        return canonical(name, progress=report)


def add(file: str | Path, name: str) -> Entry:
    """Register a backbone of one's own as ``scaleprior://NAME``; its file is copied into the zoo's folder.

    Args:
        file: ``RUN/backbone.safetensors``, or a foreign file that says all that matters.
        name: free, or one whose weights are not public (``"paper-R-50-jft-10m"``): the card then has to fit the
            catalogue's entry, and what is returned says in what (``checked``, ``differs``, ``unchecked``).

    Raises:
        UserError: no backbone, a name that is taken, or a card that contradicts the entry; with both values.
    """
    from scaleprior.backbones.zoo import add_backbone

    return add_backbone(file, name.removeprefix("scaleprior://"))


def remove(name: str) -> Path:
    """Forget a backbone of one's own; returns the path of the zoo's copy of its file, which stays.

    Raises:
        UserError: none of that name was registered.
    """
    from scaleprior.backbones.zoo import remove_backbone

    return remove_backbone(name.removeprefix("scaleprior://"))


def with_backbone(
    config: Any,
    weights: str | Path,
    overrides: Mapping[str, Any] | Sequence[Any] = (),
    *,
    classes: int | str | None = None,
) -> Any:
    """A config of Detectron2's zoo, or one of yours, around another backbone; needs Detectron2.

    Args:
        config: a path, or a name of that zoo, of a YAML (``"COCO-Detection/retinanet_R_50_FPN_1x.yaml"``) or a
            LazyConfig (``*.py``); or a config that is loaded: a ``CfgNode`` with a project's or your own keys, or a
            LazyConfig's ``DictConfig``.
        weights: a backbone file with a card, or ``scaleprior://NAME``.
        overrides: ``{"SOLVER.MAX_ITER": 1000}``, nested mappings, or ``KEY VALUE`` words.
        classes: of your own data: their number, or the name of a registered set that has them.

    Returns:
        Detectron2's ``CfgNode``, or of a LazyConfig a ``DictConfig``; see :func:`scaleprior.d2.with_backbone`.

    Raises:
        UserError: no Detectron2, no such config or backbone, or an override that contradicts the backbone's card.
    """
    from scaleprior.d2 import with_backbone as build

    return build(config, weights, overrides, classes=classes)
