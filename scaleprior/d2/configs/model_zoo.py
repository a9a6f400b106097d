"""Detectron2's config zoo with another backbone: ``with_backbone("COCO-Detection/retinanet_R_50_FPN_1x.yaml", W)``."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, overload

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from omegaconf import DictConfig

from scaleprior.backbones.addresses import text_of
from scaleprior.backbones.weights import has_card, read_card
from scaleprior.backbones.zoo import is_uri
from scaleprior.config import LoadedConfig, load_config, parse_overrides
from scaleprior.config.bases import is_lazy_config
from scaleprior.config.dotted import flat_config, set_key
from scaleprior.config.load import UnknownKeyError, override_config
from scaleprior.d2.configs.config_node import ConfigNode, declare_own_keys
from scaleprior.d2.configs.lazy_config import around_backbone, load_lazy, set_classes, set_overrides
from scaleprior.d2.plan import class_names, default_config, open_copy, start_file
from scaleprior.d2.weights.contract import apply_card
from scaleprior.d2.zoo_files import zoo_file
from scaleprior.errors import UserError

__all__ = ["with_backbone"]

Overrides: TypeAlias = Mapping[str, Any] | Sequence[Any]
"""``{"SOLVER.MAX_ITER": 1000}``, nested mappings, or ``KEY VALUE`` words."""

# Detectors of Detectron2's whose number of classes stands in a key.
_CLASS_KEYS = {
    "GeneralizedRCNN": "MODEL.ROI_HEADS.NUM_CLASSES",
    "PanopticFPN": "MODEL.ROI_HEADS.NUM_CLASSES",
    "RetinaNet": "MODEL.RETINANET.NUM_CLASSES",
}


@overload
def with_backbone(
    config: CfgNode, weights: str | Path, overrides: Overrides = (), *, classes: int | str | None = None
) -> CfgNode: ...
@overload
def with_backbone(
    config: DictConfig, weights: str | Path, overrides: Overrides = (), *, classes: int | str | None = None
) -> DictConfig: ...
@overload
def with_backbone(
    config: str | Path, weights: str | Path, overrides: Overrides = (), *, classes: int | str | None = None
) -> Any: ...
def with_backbone(
    config: str | Path | CfgNode | DictConfig,
    weights: str | Path,
    overrides: Overrides = (),
    *,
    classes: int | str | None = None,
) -> CfgNode | DictConfig:
    """A config of Detectron2's zoo, or one of yours, around another backbone.

    Depth, widths, norm, stride, pixel statistics, channel order and the weights' own key follow the backbone's card, in
    every place where the config keeps them; what the card does not speak of (schedule, heads, data, ``FREEZE_AT``)
    stays as it is.

    Args:
        config: a path, or a name of the zoo: a YAML such as "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml", or
            a LazyConfig such as "COCO-Detection/fcos_R_50_FPN_1x.py". Or a config that is loaded, which is not changed:
            a ``CfgNode`` that some ``add_..._config`` has prepared, or a LazyConfig's ``DictConfig``.
        weights: whatever names a backbone in training: a file with a card, a foreign one that says all that matters,
            ``scaleprior://NAME``, ``detectron2://...``.
        overrides: ``{"SOLVER.MAX_ITER": 1000}``, nested mappings, or ``KEY VALUE`` words; those that contradict the
            card are refused.
        classes: of your own data: their number, or the name of a registered set that has them. None = as in ``config``.

    Returns:
        Of YAML and of a ``CfgNode`` a ``CfgNode`` with our keys, not frozen, whose ``dump()`` Detectron2 reads alone
        while our keys are at their defaults; of a LazyConfig a ``DictConfig``. ``MODEL.DEVICE`` that no file sets is
        Detectron2's default, "cuda", where there is a GPU, else "cpu".

    Raises:
        UserError: no such config, backbone or set; an override that contradicts the card; a detector that has no place
            for such a backbone; in a LazyConfig, a part that nobody here knows how to set.
    """
    if isinstance(config, (str, Path)):
        config = _zoo_path(config)
        if is_lazy_config(config):
            config = load_lazy(config)
    file = start_file(weights)
    card = read_card(file)
    # A name of the zoo and a file with a card are loaded as they are; of a foreign one, what it was converted to.
    loaded_from = text_of(weights) if is_uri(weights) or has_card(weights) else str(file)
    count = _count(classes)
    if isinstance(config, DictConfig):
        lazy = copy.deepcopy(config)
        explicit = set_overrides(lazy, overrides)
        if count is not None:
            set_classes(lazy, count)
        return around_backbone(lazy, card, loaded_from, explicit)
    cfg, explicit = _overridden(config, overrides)
    if count is not None:
        _set_classes(cfg, count, explicit)
    apply_card(cfg, card, explicit)
    cfg.MODEL.WEIGHTS = loaded_from
    return cfg


def _zoo_path(config: str | Path) -> Path:
    path = Path(config)
    if path.suffix not in (".yaml", ".yml", ".py"):
        raise UserError(
            f"config {config} is neither a YAML file nor a LazyConfig",
            hint="name one of Detectron2's *.yaml or *.py configs, or give a config that is loaded",
        )
    return path if path.is_file() else zoo_file(str(config))


def _overridden(config: Path | CfgNode, overrides: Overrides) -> tuple[CfgNode, frozenset[str]]:
    """An open copy with our keys and the overrides, whose keys come with it."""
    import torch

    pairs = list(flat_config(overrides)) if isinstance(overrides, Mapping) else parse_overrides(list(overrides))
    if isinstance(config, Path):
        try:
            loaded = load_config(config, defaults=default_config())
        except UnknownKeyError as e:
            raise UserError(
                f"{e}",
                hint="if it is a project's or your own: cfg = get_cfg(), its add_..._config(cfg), "
                "cfg.merge_from_file(...), and give with_backbone that cfg",
            ) from e
        seed = loaded.cfg.SEED if "SEED" in loaded.explicit else default_config().SEED
    elif isinstance(config, CfgNode):
        prepared = ConfigNode.of(config) if type(config) is CfgNode else config.clone()
        declare_own_keys(prepared)
        loaded = LoadedConfig(prepared, frozenset(), "the config")
        seed = prepared.SEED
    else:
        raise UserError(f"config is a {type(config).__name__}", hint="give a name, a path, a CfgNode or a DictConfig")
    explicit = frozenset(key for key, _ in pairs)
    cfg = open_copy(override_config(loaded, pairs, origin="overrides").cfg)
    if "SEED" not in explicit:
        cfg.SEED = seed  # what a program of Detectron2's makes of one below 0 stays its own affair
    if cfg.MODEL.DEVICE == "auto":
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    return cfg, explicit


def _count(classes: int | str | None) -> int | None:
    if not isinstance(classes, str):
        return classes
    if classes not in DatasetCatalog.list():
        raise UserError(
            f"classes are those of {classes!r}, and no data set of that name is registered",
            hint="register it first: scaleprior.d2.register_coco(name, json, images)",
        )
    return len(class_names(classes))


def _set_classes(cfg: CfgNode, count: int, explicit: frozenset[str]) -> None:
    detector = cfg.MODEL.META_ARCHITECTURE
    key = _CLASS_KEYS.get(detector)
    if key is None:
        raise UserError(
            f"classes are given, and nobody here knows the key of MODEL.META_ARCHITECTURE {detector}",
            hint="set it in the overrides",
        )
    if key in explicit:
        raise UserError(f"{key} is in the overrides, and classes are given, too", hint="give either")
    set_key(cfg, key, count)
