"""The contract between weights and detection config: what the card says holds, or the user hears about it.

A wrong channel order, pixel statistic or stride placement loads without a word in most frameworks and costs AP.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scaleprior.backbones.arch import TimmSpec
from scaleprior.backbones.card import Card
from scaleprior.errors import UserError

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from scaleprior.config.load import LoadedConfig

__all__ = ["FITTING_NORMS", "Mismatch", "apply_card", "check_contract"]

FITTING_NORMS = {"BN": ("BN", "FrozenBN", "SyncBN"), "FrozenBN": ("FrozenBN", "BN", "SyncBN"), "GN": ("GN",)}
_DETECTOR_EPS = 1e-5  # of Detectron2's and torchvision's FrozenBN and of GN


@dataclass(frozen=True)
class Mismatch:
    """One key in which a config contradicts a card.

    Attributes:
        key: dotted config key.
        config_value: what the config says.
        card_value: what the weights need.
        explicit: somebody set the key, rather than leaving it at its default.
    """

    key: str
    config_value: Any
    card_value: Any
    explicit: bool = False

    @property
    def override(self) -> str:
        """The ``KEY VALUE`` words that settle it on the command line."""
        value = self.card_value
        text = "[" + ", ".join(repr(v) for v in value) + "]" if isinstance(value, list) else str(value)
        return f"{self.key} '{text}'" if " " in text else f"{self.key} {text}"


def check_contract(cfg: CfgNode, card: Card, explicit: Collection[str] = ()) -> list[Mismatch]:
    """Every key in which ``cfg`` contradicts ``card``; empty when they agree.

    Compared: MODEL.PIXEL_MEAN and PIXEL_STD (to 1e-3 on the 0-255 scale), INPUT.FORMAT, and under MODEL.RESNETS:
    STRIDE_IN_1X1 (bottlenecks only), NORM (BN weights fit BN, FrozenBN and SyncBN; GN fits GN), DEPTH and widths.

    Args:
        explicit: dotted keys that were set on purpose; marks them in the result.

    Raises:
        UserError: a trunk of timm, which these keys cannot describe.
    """
    if isinstance(card.arch, TimmSpec):
        raise UserError(
            f"backbone {card.name} is timm's {card.arch.model}, which no MODEL.RESNETS config describes",
            hint="take a ResNet backbone, or a detector built on scaleprior.backbones.build_trunk",
        )
    needed: dict[str, Any] = {
        "MODEL.PIXEL_MEAN": list(card.pixel_mean),
        "MODEL.PIXEL_STD": list(card.pixel_std),
        "INPUT.FORMAT": card.channel_order,
        **card.arch.to_cfg_keys(),
    }
    if card.arch.bottleneck:
        needed["MODEL.RESNETS.STRIDE_IN_1X1"] = card.stride_in_1x1
    fitting = FITTING_NORMS[card.norm]
    if _get(cfg, "MODEL.RESNETS.NORM") not in fitting:
        needed["MODEL.RESNETS.NORM"] = "FrozenBN" if "FrozenBN" in fitting else fitting[0]
    return [
        Mismatch(key, _get(cfg, key), value, key in explicit)
        for key, value in needed.items()
        if not _same(_get(cfg, key), value)
    ]


def apply_card(loaded: LoadedConfig, card: Card) -> CfgNode:
    """A frozen copy of the config with the keys that nobody set taken from the card.

    Raises:
        UserError: a key that was set contradicts the card; prints the override lines. Also norms with an eps that
            no detector here has.
    """
    # FrozenBN's eps cannot be configured in Detectron2; weights of another eps need their variances rescaled first.
    if abs(card.norm_eps - _DETECTOR_EPS) > 1e-9:
        raise UserError(
            f"backbone {card.name} has norms with eps {card.norm_eps:g}, detectors have {_DETECTOR_EPS:g}",
            hint="add the difference of the two to every running_var and save with the detectors' eps",
        )
    mismatches = check_contract(loaded.cfg, card, loaded.explicit)
    contradictions = [m for m in mismatches if m.explicit]
    if contradictions:
        said = ", ".join(f"{m.key} is {m.config_value!r}" for m in contradictions)
        raise UserError(
            f"config {loaded.source} contradicts the card of backbone {card.name}: {said}",
            hint="use " + " ".join(m.override for m in contradictions),
        )
    cfg = loaded.cfg.clone()
    cfg.defrost()
    for mismatch in mismatches:
        *parents, leaf = mismatch.key.split(".")
        node = cfg
        for parent in parents:
            node = node[parent]
        node[leaf] = mismatch.card_value
    cfg.freeze()
    return cfg


def _get(cfg: CfgNode, key: str) -> Any:
    node: Any = cfg
    for part in key.split("."):
        node = node[part]
    return node


def _same(config_value: Any, card_value: Any) -> bool:
    if isinstance(card_value, list):
        return len(config_value) == len(card_value) and all(
            abs(a - b) <= 1e-3 for a, b in zip(config_value, card_value)
        )
    return config_value == card_value
