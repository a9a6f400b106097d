"""A trunk as TorchScript compiles it: the family's Python, which finds its way by names, is asked once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Dict  # noqa: UP035 (the annotation is TorchScript's)

from detectron2.modeling import Backbone
from torch import Tensor, nn

from scaleprior.backbones.trunks.family import TrunkFamily
from scaleprior.backbones.trunks.model import MAPS

__all__ = ["ScriptableTrunk"]


class ScriptableTrunk(Backbone):
    """Stem, stages and the norms that maps pass, in the order in which images do. Its names are ``stages.0...``, as
    those of Detectron2's ResNet become when it is scripted.

    Args:
        body: the trunk, as the family's functions take it.
        out_features: maps to hand on.
        size_divisibility: see ``TimmBackbone``.
    """

    def __init__(
        self, family: TrunkFamily, body: nn.Module, *, out_features: Sequence[str], size_divisibility: int
    ) -> None:
        super().__init__()
        stages = family.stages(body)
        passed = family.next_norms(body)
        self.stem = family.stem(body)
        self.stages = nn.ModuleList(stages)
        self.norms = nn.ModuleList(passed.get(name, nn.Identity()) for name in MAPS[: len(stages)])
        self.names = MAPS[: len(stages)]
        self._out_features = list(out_features)
        self._size_divisibility = size_divisibility
        self.train(body.training)

    @property
    def size_divisibility(self) -> int:
        """See ``TimmBackbone``."""
        return self._size_divisibility

    def forward(self, x: Tensor) -> Dict[str, Tensor]:  # noqa: UP006 # pyright: ignore[reportIncompatibleMethodOverride]
        """As ``TimmBackbone.forward``."""
        maps: Dict[str, Tensor] = {}  # noqa: UP006
        x = self.stem(x)
        for name, stage, norm in zip(self.names, self.stages, self.norms):
            x = stage(x)
            if name in self._out_features:
                maps[name] = norm(x)
        return maps
