"""The card: what produced a backbone's weights and what they expect of their input. Torch-free.

It travels as JSON in the header of the ``.safetensors`` file, so reading it costs the header, not the weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from scaleprior.backbones.trunks.family import TrunkSpec
from scaleprior.backbones.trunks.published import CARD_FACTS, Origin
from scaleprior.backbones.trunks.selection import spec_from_dict
from scaleprior.errors import UserError
from scaleprior.files import is_number
from scaleprior.parsing import parse_json
from scaleprior.provenance import CreatedBy
from scaleprior.wording import shown

__all__ = ["CARD_KEY", "LARGEST", "SCHEMA", "UNKNOWN", "Card"]

SCHEMA = 3
"""Newest schema read here. A card that says where its facts come from is written as 3. One that does not is a 1, or a 2
if it names another family than Detectron2's ResNets; older versions refuse what they cannot read by its schema."""
CARD_KEY = "scaleprior.card"
"""Key of the card in the safetensors header's metadata."""
LARGEST = (1 << 63) - 1
"""Of the whole numbers that a card holds: what other programs can read."""
_LONGEST = 10_000  # characters of a text
UNKNOWN = "unknown"
"""What a text field says when nobody recorded it; a number says None. What the contract with a detector needs
(pixel statistics, channel order, architecture, eps) can never be unknown."""


@dataclass(frozen=True)
class Card:
    """Provenance and input contract of a backbone.

    Attributes:
        name: short name of these weights, e.g. "R-50_jft-10m_seed0".
        arch: the trunk's architecture, including stride placement and norm kind: a ``ResNetSpec``, or the spec of
            another family (a ``TimmSpec`` as a rule) for trunks that Detectron2's ResNet cannot hold.
        pixel_mean, pixel_std: three floats on the 0-255 scale in ``channel_order``; the network saw
            ``(pixel - mean) / std``.
        channel_order: "RGB" or "BGR".
        norm_eps: what the norms add to the variance; left out, it is what the family's do.
        input_size: side of the training crops in pixels; None = unknown.
        corpus: ``{"name": ..., "fingerprint": ...}`` of the images trained on.
        images: images trained on (the fraction's length); None = unknown.
        labels: labels of the head, that is of the label space; None = unknown.
        noise: settings of artificial label noise, ``{}`` for none; None = unknown.
        epochs, steps: how long; None = unknown.
        recipe: the resolved recipe (a config as nested mappings), ``{}`` = unknown.
        seed: None = unknown.
        parent: ``name`` and ``tensors_sha256`` of the backbone training started from; None = fresh weights.
        licence, source: who may use it, and where it came from.
        created_by: version and commit of ScalePrior.
        tensors_sha256: hash over names, types, shapes and bytes of the tensors; filled in when saving.
        facts: fact of ``CARD_FACTS`` -> who says it; empty in cards from before that was asked.
        schema: version of this record; follows from ``facts`` and ``arch``.
    """

    name: str
    arch: TrunkSpec
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    channel_order: Literal["RGB", "BGR"]
    norm_eps: float = None  # type: ignore[assignment]  # never None afterwards
    input_size: int | None = None
    corpus: Mapping[str, str] = field(default_factory=lambda: {"name": UNKNOWN, "fingerprint": UNKNOWN})
    images: int | None = None
    labels: int | None = None
    noise: Mapping[str, Any] | None = None
    epochs: float | None = None
    steps: int | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    parent: Mapping[str, str] | None = None
    licence: str = UNKNOWN
    source: str = UNKNOWN
    created_by: CreatedBy = field(default_factory=lambda: CreatedBy(version=UNKNOWN, commit=UNKNOWN))
    tensors_sha256: str = UNKNOWN
    facts: Mapping[str, Origin] = field(default_factory=dict)
    schema: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "pixel_mean", tuple(self.pixel_mean))
        object.__setattr__(self, "pixel_std", tuple(self.pixel_std))
        if isinstance(self.arch, TrunkSpec):
            object.__setattr__(self, "schema", 3 if self.facts else 2 if "family" in self.arch.to_dict() else 1)
            if self.norm_eps is None:
                object.__setattr__(self, "norm_eps", self.arch.family.eps)
        for name, problem in _problems(self):
            raise UserError(f"card: {name} is {shown(getattr(self, name))}", hint=problem)

    @property
    def stride_in_1x1(self) -> bool:
        """Stages downsample in the first 1x1 convolution; same as ``arch.stride_in_1x1``."""
        return self.arch.stride_in_1x1

    @property
    def norm(self) -> str:
        """Norm the weights were trained with; same as ``arch.norm``."""
        return self.arch.norm

    @property
    def assumed(self) -> tuple[str, ...]:
        """The facts that nobody stated: usual values were taken on somebody's word."""
        return tuple(name for name, origin in self.facts.items() if origin.kind == "assumed")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready. Norm and stride placement are repeated at the top, where a reader looks for them."""
        value = {f.name: getattr(self, f.name) for f in fields(self)}
        value["facts"] = {name: origin.to_dict() for name, origin in self.facts.items()}
        if not self.facts:
            del value["facts"]  # as before cards had it
        value["arch"] = self.arch.to_dict()
        value["pixel_mean"], value["pixel_std"] = list(self.pixel_mean), list(self.pixel_std)
        value["stride_in_1x1"], value["norm"] = self.stride_in_1x1, self.norm
        return {"schema": value.pop("schema"), **value}

    def to_json(self) -> str:
        """One line of strict JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_dict(cls, value: Any, *, source: str = "card") -> Card:
        """Raises UserError: a missing or unknown field, an impossible value, or a schema this version cannot read."""
        if not isinstance(value, Mapping):
            raise UserError(f"{source}: a card is an object, got {type(value).__name__}", hint="check the file")
        schema = value.get("schema")
        if type(schema) is not int or not 1 <= schema <= SCHEMA:
            raise UserError(
                f"{source}: card schema {shown(schema)}, this version of scaleprior reads 1 to {SCHEMA}",
                hint="update scaleprior",
            )
        value = dict(value)
        repeated = {name: value.pop(name, None) for name in ("stride_in_1x1", "norm")}
        required = {"name", "arch", "pixel_mean", "pixel_std", "channel_order"}
        unknown, missing = sorted(set(value) - {f.name for f in fields(cls)}), sorted(required - set(value))
        if unknown or missing:
            raise UserError(
                f"{source}: card has unknown fields {shown(unknown)} and lacks {missing}", hint="check the file"
            )
        if not isinstance(value["arch"], Mapping):
            raise UserError(f"{source}: card: arch is {shown(value['arch'])}", hint="an object is needed")
        for name in ("pixel_mean", "pixel_std"):
            if not isinstance(value[name], (list, tuple)):
                raise UserError(f"{source}: card: {name} is {shown(value[name])}", hint="three numbers are needed")
        facts = value.pop("facts", {})
        if not isinstance(facts, Mapping) or not set(facts) <= set(CARD_FACTS):
            raise UserError(
                f"{source}: card: facts is {shown(facts)}", hint=f"an object of {', '.join(CARD_FACTS)} is needed"
            )
        try:
            facts = {name: Origin.from_dict(origin) for name, origin in facts.items()}
            card = cls(**{**value, "facts": facts, "arch": spec_from_dict(value["arch"])})
        except UserError as e:
            raise UserError(f"{source}: {e}") from e
        for name, said in repeated.items():
            if said is not None and said != getattr(card, name):
                raise UserError(
                    f"{source}: card says {name} {shown(said)} but its arch says {getattr(card, name)!r}",
                    hint="the file was altered; get it again",
                )
        return card

    @classmethod
    def from_json(cls, text: str, *, source: str = "card") -> Card:
        """Parse and validate; ``source`` (a path) goes into error messages."""
        return cls.from_dict(parse_json(text, where=f"{source}: the card"), source=source)


def _problems(card: Card) -> list[tuple[str, str]]:
    """(field, what it should be) for every field with an impossible value."""
    triple = "three finite numbers on the 0-255 scale"
    found = []
    if not isinstance(card.arch, TrunkSpec):
        found.append(("arch", "a ResNetSpec, a TimmSpec or the spec of another family is needed"))
    for name in ("pixel_mean", "pixel_std"):
        if len(getattr(card, name)) != 3 or not all(map(is_number, getattr(card, name))):
            found.append((name, f"{triple} are needed"))
        elif name == "pixel_std" and min(card.pixel_std) <= 0:
            found.append((name, "positive numbers are needed"))
    if not isinstance(card.channel_order, str) or card.channel_order not in ("RGB", "BGR"):
        found.append(("channel_order", 'take "RGB" or "BGR"'))
    if not is_number(card.norm_eps) or card.norm_eps < 0:
        found.append(("norm_eps", "a number of at least 0 is needed"))
    for name in ("input_size", "images", "labels", "steps", "seed"):
        value = getattr(card, name)
        if value is not None and (type(value) is not int or not 0 <= value <= LARGEST):
            found.append((name, f"an integer from 0 to {LARGEST}, or null for unknown, is needed"))
    if card.epochs is not None and (not is_number(card.epochs) or card.epochs < 0):
        found.append(("epochs", "a number of at least 0, or null for unknown, is needed"))
    for name in ("name", "licence", "source", "tensors_sha256"):
        if not isinstance(text := getattr(card, name), str) or not 0 < len(text) <= _LONGEST:
            found.append((name, f'text is needed ("{UNKNOWN}" if it is), at most {_LONGEST:,} characters'))
    for name in ("corpus", "recipe", "created_by", "noise", "parent"):
        value = getattr(card, name)
        if not isinstance(value, Mapping) and not (value is None and name in ("noise", "parent")):
            found.append((name, "an object is needed"))
    return found
