"""How two backbones differ: facts of their cards, names, shapes and numbers of their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scaleprior.backbones.card import Card

if TYPE_CHECKING:
    from torch import Tensor

    from scaleprior.backbones.readers.draft import Draft

__all__ = ["Difference", "compare_backbones"]

_HASH = "tensors_sha256"  # follows from the tensors, which are compared themselves


@dataclass(frozen=True)
class Difference:
    """What is not alike in A and B.

    Attributes:
        card: field -> (A's value, B's value).
        only_a, only_b: tensors that the other lacks.
        shapes: tensor -> (A's shape, B's shape).
        values: tensor -> (largest absolute difference, the same relative to A's largest value); only differing ones.
        equal: tensors with the same bits.
    """

    card: dict[str, tuple[Any, Any]]
    only_a: list[str]
    only_b: list[str]
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    values: dict[str, tuple[float, float]]
    equal: int

    @property
    def same_tensors(self) -> bool:
        """Every tensor has the same name, shape and bits."""
        return not (self.only_a or self.only_b or self.shapes or self.values)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**self.__dict__, "same_tensors": self.same_tensors}


def compare_backbones(
    a: Mapping[str, Tensor], card_a: Card | Draft, b: Mapping[str, Tensor], card_b: Card | Draft
) -> Difference:
    """Compare canonical tensors and cards, or what is known where a card cannot be made yet."""
    import torch

    facts_a, facts_b = card_a.to_dict(), card_b.to_dict()
    card = {
        key: (facts_a.get(key), facts_b.get(key))
        for key in facts_a | facts_b
        if key != _HASH and facts_a.get(key) != facts_b.get(key)
    }
    shapes, values, equal = {}, {}, 0
    for name in sorted(set(a) & set(b)):
        if a[name].shape != b[name].shape:
            shapes[name] = (tuple(a[name].shape), tuple(b[name].shape))
        elif torch.equal(a[name], b[name]):
            equal += 1
        else:
            gap = float((a[name].double() - b[name].double()).abs().max())
            values[name] = (gap, gap / max(float(a[name].abs().max()), 1e-30))
    return Difference(card, sorted(set(a) - set(b)), sorted(set(b) - set(a)), shapes, values, equal)
