"""Progressive resizing: smaller images for the first shares of a run, which costs less.

S pixels a side of the images of a step. The side is a function of the step, so a resumed run has it, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scaleprior.errors import UserError
from scaleprior.files import is_number

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["ImageSizes", "size_pairs"]

_LEAST = 8  # pixels, as PRETRAIN.INPUT.SIZE
_KEY = "PRETRAIN.INPUT.PROGRESSIVE"


@dataclass(frozen=True)
class ImageSizes:
    """S of every step.

    Attributes:
        total: steps of the run. size: S from the last of ``ends`` on.
        ends: steps from which on it is no longer the side in ``sides``, rising.
    """

    total: int
    size: int
    ends: tuple[int, ...] = ()
    sides: tuple[int, ...] = ()

    @classmethod
    def from_config(cls, cfg: CfgNode, *, total: int) -> ImageSizes:
        """Those of ``cfg.PRETRAIN.INPUT`` in a run of ``total`` steps.

        Raises:
            UserError: see :func:`size_pairs`.
        """
        pairs = size_pairs(cfg)
        ends = tuple(round(share * total) for share, _ in pairs)
        return cls(total, cfg.PRETRAIN.INPUT.SIZE, ends, tuple(side for _, side in pairs))

    def __call__(self, step: int) -> int:
        """S of ``step``, 0-based."""
        return next((side for end, side in zip(self.ends, self.sides) if step < end), self.size)

    @property
    def cost(self) -> float:
        """Pixels of all images of the run, over those if all were of the last side; in (0, 1]."""
        starts = (0, *self.ends)
        saved = sum(
            (end - start) * (1 - (side / self.size) ** 2) for start, end, side in zip(starts, self.ends, self.sides)
        )
        return 1 - saved / self.total

    def __str__(self) -> str:
        stages = [f"{side} until step {end}" for end, side in zip(self.ends, self.sides)]
        return ", ".join([*stages, f"then {self.size}"]) if stages else str(self.size)


def size_pairs(cfg: CfgNode) -> list[tuple[float, int]]:
    """``PRETRAIN.INPUT.PROGRESSIVE``: (share of the run, side until then), both rising; empty where it is off.

    Raises:
        UserError: it is something else.
    """
    value, size = cfg.PRETRAIN.INPUT.PROGRESSIVE, cfg.PRETRAIN.INPUT.SIZE
    pairs: list[tuple[float, int]] = []
    for pair in value:
        share, side = _pair(pair, value)
        least_share, least_side = pairs[-1] if pairs else (0.0, _LEAST - 1)
        if not least_share < share < 1:
            raise _refusal(value, f"share {share:g}", f"above {least_share:g} and below 1")
        if not least_side < side < size:
            raise _refusal(value, f"size {side}", f"above {least_side} and below PRETRAIN.INPUT.SIZE {size}")
        pairs.append((share, side))
    return pairs


def _pair(pair: Any, value: Sequence[Any]) -> tuple[float, int]:
    if isinstance(pair, (list, tuple)) and len(pair) == 2 and all(map(is_number, pair)) and pair[1] == int(pair[1]):
        return float(pair[0]), int(pair[1])
    raise UserError(
        f"{_KEY} is {value!r}, with {pair!r} in it",
        hint="give pairs of a share of the run and a size, such as ((0.5, 128), (0.8, 176))",
    )


def _refusal(value: Sequence[Any], what: str, legal: str) -> UserError:
    return UserError(f"{_KEY} is {value!r}, with {what} in it", hint=f"give one {legal}: shares and sizes rise")
