"""LazyConfigs of Detectron2's around another backbone: what its card says, set in every place where one keeps it.

A LazyConfig says the same thing in several places, which nothing holds together: C4's stride stands in the backbone and
in the head's res5, the channel order in the model (for drawing) and in the loaders' mappers (for the pixels).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from detectron2.config import LazyCall as L, LazyConfig
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.backbone.resnet import BottleneckBlock
from omegaconf import DictConfig, ListConfig, OmegaConf

from scaleprior.backbones.card import Card
from scaleprior.backbones.contract import usual_norm
from scaleprior.backbones.trunks.model import fitting_norms, same_eps
from scaleprior.backbones.trunks.resnet.spec import BLOCKS_PER_STAGE, ResNetSpec
from scaleprior.config.load import parse_overrides
from scaleprior.d2.configs.lazy_nodes import is_call, name_of, nodes
from scaleprior.d2.trunks.timm_backbones import TimmBackbone
from scaleprior.errors import UserError

__all__ = ["around_backbone", "load_lazy", "set_classes", "set_overrides"]

logger = logging.getLogger(__name__)

_SECTIONS = ("model", "dataloader", "train")
_FORMATS = ("image_format", "img_format")  # of Detectron2's DatasetMapper; of detrex's
_DETECTRON2_EPS = 1e-5
_BOTTLENECKS = ("stride_in_1x1", "num_groups")  # arguments that only these blocks have
# Detectron2's get_norm has more names of a BN that averages over processes than its configs mention.
_SYNC = ("SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")


def load_lazy(path: Path) -> DictConfig:
    """The config of a ``.py`` file, which is code and is run, or of a YAML that Detectron2 saved of one.

    Raises:
        UserError: whatever goes wrong in it.
    """
    try:
        loaded = LazyConfig.load(str(path))
    except Exception as e:  # it may raise anything
        raise UserError(
            f"config {path} cannot be loaded: {type(e).__name__}: {e}", hint="see what the file imports"
        ) from e
    assert isinstance(loaded, DictConfig), "without names to load, all of them come"
    return loaded


def set_overrides(cfg: DictConfig, overrides: Mapping[str, Any] | Sequence[Any]) -> frozenset[str]:
    """Set ``{"train.max_iter": 10}``, nested mappings, or ``KEY VALUE`` words in ``cfg``; returns the keys.

    A call (``L(AdamW)(lr=1e-4)``) takes the place of what is there, arguments and all.

    Raises:
        UserError: a key whose section the config does not have, which Detectron2 would add and nobody would read.
    """
    pairs = list(_leaves(overrides)) if isinstance(overrides, Mapping) else parse_overrides(list(overrides))
    for key, value in pairs:
        parent = key.rpartition(".")[0]
        if not OmegaConf.is_config(OmegaConf.select(cfg, parent) if parent else cfg):
            raise UserError(
                f"override {key}: the LazyConfig has no {parent}", hint=f"it has {', '.join(map(str, cfg))}"
            )
        OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    return frozenset(key for key, _ in pairs)


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping) and not OmegaConf.is_config(value):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def around_backbone(cfg: DictConfig, card: Card, weights: str, explicit: frozenset[str] = frozenset()) -> DictConfig:
    """A copy of a LazyConfig with trunk, pixel statistics, channel order and ``train.init_checkpoint`` set.

    Args:
        weights: what ``train.init_checkpoint`` becomes.
        explicit: dotted keys that were set on purpose and must not be changed.

    Raises:
        UserError: a key of ``explicit`` contradicts the card; a part of the config, named, that is not known here.
    """
    for section in _SECTIONS:
        if not isinstance(cfg.get(section), DictConfig):
            raise UserError(
                f"the LazyConfig has no {section}", hint=f"give one with {', '.join(_SECTIONS)}, as Detectron2's have"
            )
    edit = _Edit(copy.deepcopy(cfg), card, explicit)
    path, trunk = _find_trunk(edit.cfg)
    if is_call(trunk, TimmBackbone) or card.arch.to_cfg_keys() is None:
        _set_timm_trunk(edit, path, trunk)
    else:
        _set_resnet(edit, path, trunk)
    for place, node in nodes(edit.cfg.model, "model"):
        if is_call(node, LastLevelP6P7):
            level = node.get("in_feature", "res5")
            if level in card.arch.out_channels:
                edit.set(f"{place}.in_channels", card.arch.out_channels[level])
    _set_pixels(edit)
    edit.set("train.init_checkpoint", weights)
    return edit.finish()


def set_classes(cfg: DictConfig, count: int) -> None:
    """The number of classes of Detectron2's heads in ``cfg``: in place.

    Raises:
        UserError: the model has no ``num_classes`` where Detectron2's have it.
    """
    places = [p for p in ("model", "model.roi_heads") if "num_classes" in (OmegaConf.select(cfg, p) or {})]
    if not places:
        raise UserError(
            "classes are given, and the LazyConfig has neither model.num_classes nor model.roi_heads.num_classes",
            hint="set the model's own key",
        )
    for place in places:
        OmegaConf.update(cfg, f"{place}.num_classes", count)


class _Edit:
    """A config that is changed, and what it must not lose: keys that somebody set."""

    def __init__(self, cfg: DictConfig, card: Card, explicit: frozenset[str]) -> None:
        self.cfg = cfg
        self.card = card
        self._explicit = explicit
        self._contradictions: list[tuple[str, Any, Any]] = []
        self._pointers: list[tuple[str, Any]] = []

    def set(self, key: str, value: Any) -> None:
        """Set a key unless it has the value; one that points to another gets it from there, and is looked at last."""
        parent, _, leaf = key.rpartition(".")
        node, before = OmegaConf.select(self.cfg, parent), OmegaConf.select(self.cfg, key)
        if OmegaConf.is_interpolation(node, leaf):
            self._pointers.append((key, value))
        elif leaf in node and _same(before, value):
            return
        elif any(key == said or key.startswith(f"{said}.") for said in self._explicit):
            self._contradictions.append((key, before, value))
        else:
            logger.info("%s: %r becomes %r, as the card of %s says", key, before, value, self.card.name)
            OmegaConf.update(self.cfg, key, value, merge=False, force_add=True)

    def replace(self, key: str, node: Any, kept: Mapping[str, Any]) -> None:
        """Put another call in the place of one; its arguments ``kept`` are the same in both."""
        before = OmegaConf.select(self.cfg, key)
        same = {f"{key}.{name}" for name, value in kept.items() if name in before and _same(before[name], value)}
        said = sorted(name for name in self._explicit - same if name.startswith(f"{key}."))
        if said:
            raise UserError(
                f"{', '.join(said)} is set, and backbone {self.card.name} needs another {key} than the config's",
                hint="leave it out",
            )
        logger.info("%s becomes %s, as the card of %s says", key, name_of(node), self.card.name)
        OmegaConf.update(self.cfg, key, node, merge=False)

    def finish(self) -> DictConfig:
        """The config, where all agrees."""
        if self._contradictions:
            said = ", ".join(f"{key} is {before!r}" for key, before, _ in self._contradictions)
            raise UserError(
                f"the LazyConfig contradicts the card of backbone {self.card.name}: {said}",
                hint="use " + " ".join(f"{key}={value}".replace(", ", ",") for key, _, value in self._contradictions),
            )
        for key, value in self._pointers:
            found = OmegaConf.select(self.cfg, key)
            if not _same(found, value):
                raise UserError(
                    f"{key} points to another key and is {found!r}; backbone {self.card.name} needs {value!r}",
                    hint="give the key a value of its own",
                )
        return self.cfg


def _find_trunk(cfg: DictConfig) -> tuple[str, DictConfig]:
    found = [(p, node) for p, node in nodes(cfg.model, "model") if is_call(node, ResNet) or is_call(node, TimmBackbone)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"the LazyConfig has {len(found)} trunks: {', '.join(path for path, _ in found)}",
            hint="build it around each yourself, as docs/detectron2.md shows",
        )
    parts = [(p, node) for p, node in nodes(cfg.model, "model") if p.split(".")[1:2] == ["backbone"]]
    what = ", ".join(f"{p} is a {name_of(node)}" for p, node in parts[:2]) or f"model is a {name_of(cfg.model)}"
    raise UserError(
        f"no trunk in this LazyConfig can take a backbone of ScalePrior's: {what}",
        hint="take a config with Detectron2's ResNet, alone or under a feature pyramid",
    )


def _set_resnet(edit: _Edit, path: str, trunk: DictConfig) -> None:
    """Depth, widths, norm and stride of Detectron2's ResNet, and of the res5 that C4 has in its head."""
    card = edit.card
    spec = cast("ResNetSpec", card.arch)  # MODEL.RESNETS describes it
    stages = trunk.get("stages")
    if not (is_call(trunk.get("stem"), BasicStem) and is_call(stages, ResNet.make_default_stages)):
        raise UserError(
            f"{path} has a stem or stages that are not those of Detectron2's ResNets",
            hint="take BasicStem and ResNet.make_default_stages",
        )
    if not same_eps(card.norm_eps, _DETECTRON2_EPS):
        raise UserError(
            f"the norms of backbone {card.name} have eps {card.norm_eps:g}; those of a LazyConfig's ResNet have "
            f"{_DETECTRON2_EPS:g}",
            hint="`scaleprior backbone export` makes a backbone of it that has Detectron2's, where that can be",
        )
    _set_norm(edit, f"{path}.stem.norm")
    _set_norm(edit, f"{path}.stages.norm")
    if spec == ResNetSpec(spec.depth, norm=spec.norm, stride_in_1x1=spec.stride_in_1x1):
        _set_standard_stages(edit, f"{path}.stages", spec)
    else:
        kept = {"depth": spec.depth, "norm": stages.norm, "stride_in_1x1": spec.stride_in_1x1}
        edit.replace(f"{path}.stages", _stages(spec, stages), kept)
    for place, node in list(nodes(edit.cfg.model, "model")):
        if place.endswith(".res5") and is_call(node, ResNet.make_stage):
            if not spec.bottleneck:
                raise UserError(
                    f"backbone {card.name} has basic blocks, and {place} has bottlenecks",
                    hint="take a config with a feature pyramid (FPN)",
                )
            _set_norm(edit, f"{place}.norm")
            for key, value in _stage(spec, 5).items():
                edit.set(f"{place}.{key}", value)
    if list(OmegaConf.select(edit.cfg, "model.proposal_generator.in_features") or ()) == ["res4"]:
        edit.set("model.proposal_generator.head.in_channels", spec.out_channels["res4"])


def _set_standard_stages(edit: _Edit, place: str, spec: ResNetSpec) -> None:
    edit.set(f"{place}.depth", spec.depth)
    node = OmegaConf.select(edit.cfg, place)
    if spec.bottleneck:
        edit.set(f"{place}.stride_in_1x1", spec.stride_in_1x1)
        if "num_groups" in node:
            edit.set(f"{place}.num_groups", 1)
        return
    others = sorted(set(node) - {"_target_", "depth", "norm", *_BOTTLENECKS})
    if others:
        raise UserError(
            f"{place} has {', '.join(others)}, which are not for the basic blocks of backbone {edit.card.name}",
            hint="take a config without them",
        )
    for key in set(node) & set(_BOTTLENECKS):
        del node[key]


def _stage(spec: ResNetSpec, stage: int) -> dict[str, Any]:
    """Arguments of ``ResNet.make_stage`` of a bottleneck's stage, beside blocks and norm."""
    return {
        "in_channels": spec.out_channels["stem" if stage == 2 else f"res{stage - 1}"],
        "bottleneck_channels": spec.num_groups * spec.width_per_group * 2 ** (stage - 2),
        "out_channels": spec.out_channels[f"res{stage}"],
        "num_groups": spec.num_groups,
        "stride_in_1x1": spec.stride_in_1x1,
    }


def _stages(spec: ResNetSpec, before: DictConfig) -> list[Any]:
    """The stages of widths that ``make_default_stages`` does not have; what else the call says stays."""
    others = {name: before[name] for name in before if name not in ("_target_", "depth", *_BOTTLENECKS)}
    return [
        L(ResNet.make_stage)(
            num_blocks=blocks,
            stride_per_block=[1 if stage == 2 else 2] + [1] * (blocks - 1),
            **{"block_class": BottleneckBlock, **others, **_stage(spec, stage)},
        )
        for stage, blocks in zip(range(2, 6), BLOCKS_PER_STAGE[spec.depth])
    ]


def _set_timm_trunk(edit: _Edit, path: str, trunk: DictConfig) -> None:
    """``TimmBackbone`` in the place of a ResNet under a pyramid, or the card's trunk in one that is there."""
    card = edit.card
    model = card.arch.timm_model
    if model is None:
        raise UserError(
            f"backbone {card.name} is {card.arch.name}, which {path}, a TimmBackbone, cannot build",
            hint="take a config with Detectron2's ResNet",
        )
    if path == "model.backbone" and "roi_heads" in edit.cfg.model:
        raise UserError(
            f"backbone {card.name} is timm's {card.arch.name}, and C4's head is the res5 of a ResNet",
            hint="take a config with a feature pyramid (FPN)",
        )
    own = card.arch.family.eps
    eps = None if same_eps(own, card.norm_eps) else card.norm_eps
    if not is_call(trunk, TimmBackbone):
        block = OmegaConf.select(trunk, "stages.block_class")
        if block is not None:
            raise UserError(
                f"{path}.stages.block_class is set, and timm's {card.arch.name} has blocks of its own",
                hint="take a config without it",
            )
        kept = {"out_features": list(trunk.out_features), "freeze_at": trunk.get("freeze_at", 0)}
        edit.replace(path, L(TimmBackbone)(model=model, norm=usual_norm(card), norm_eps=eps, **kept), kept)
        return
    edit.set(f"{path}.model", model)
    edit.set(f"{path}.norm_eps", eps)
    _set_norm(edit, f"{path}.norm")


def _set_norm(edit: _Edit, key: str) -> None:
    """A norm that fits the weights stays; one that is a function has no name to judge it by."""
    said, fitting = OmegaConf.select(edit.cfg, key), fitting_norms(edit.card.norm)
    if callable(said):
        logger.warning("could not check %s against the card of %s: it is a function", key, edit.card.name)
    elif said not in fitting and not ("SyncBN" in fitting and said in _SYNC):
        edit.set(key, usual_norm(edit.card))


def _set_pixels(edit: _Edit) -> None:
    card = edit.card
    normalising = [p for p, node in nodes(edit.cfg.model, "model") if "pixel_mean" in node]
    mappers = [(p, key) for p, node in nodes(edit.cfg.dataloader, "dataloader") for key in _FORMATS if key in node]
    for found, what in ((normalising, "pixel_mean under model"), (mappers, "image_format under dataloader")):
        if not found:
            raise UserError(
                f"the LazyConfig has no {what}, so nobody here knows where its images become what backbone "
                f"{card.name} expects",
                hint="set it up yourself, as docs/detectron2.md shows",
            )
    for place in normalising:
        edit.set(f"{place}.pixel_mean", list(card.pixel_mean))
        edit.set(f"{place}.pixel_std", list(card.pixel_std))
    for place, key in mappers:
        edit.set(f"{place}.{key}", card.channel_order)
    if "input_format" in edit.cfg.model:
        edit.set("model.input_format", card.channel_order)


def _same(found: Any, wanted: Any) -> bool:
    if not isinstance(wanted, list):
        return type(found) is type(wanted) and found == wanted
    if not isinstance(found, (list, tuple, ListConfig)) or len(found) != len(wanted):
        return False
    # Numbers in lists are those of pixels, on the 0-255 scale.
    return all(abs(a - b) <= 1e-3 if isinstance(b, float) else a == b for a, b in zip(found, wanted))
