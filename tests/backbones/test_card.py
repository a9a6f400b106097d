"""The card: round trip, validation, and schema."""

from __future__ import annotations

import json

import pytest

from scaleprior.backbones import Card, ResNetSpec
from scaleprior.errors import UserError


def card(**changes: object) -> Card:
    facts = {"pixel_mean": (1.0, 2.0, 3.0), "pixel_std": (4.0, 5.0, 6.0), "channel_order": "RGB"}
    return Card(**{"name": "x", "arch": ResNetSpec(depth=18), **facts, **changes})


def test_json_round_trip_keeps_everything() -> None:
    full = card(
        images=10, labels=3, noise={"rate": 0.2}, epochs=2.5, steps=7, recipe={"a": [1, 2.5]}, seed=0, input_size=48,
        corpus={"name": "c", "fingerprint": "f"}, parent={"name": "p", "tensors_sha256": "0"}, licence="CC0",
    )  # fmt: skip
    assert Card.from_json(full.to_json()) == full
    assert Card.from_json(card().to_json()).images is None
    shown = full.to_dict()
    assert (shown["schema"], shown["norm"], shown["stride_in_1x1"]) == (1, "BN", False)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("pixel_std", [1.0, 0.0, 1.0], r"w.safetensors: card: pixel_std is \(1.0, 0.0, 1.0\); positive"),
        ("pixel_mean", [1.0, 2.0], r"pixel_mean is \(1.0, 2.0\); three finite numbers"),
        ("pixel_mean", 3, r"pixel_mean is 3"),
        ("channel_order", "RBG", r"channel_order is 'RBG'"),
        ("images", -1, r"images is -1"),
        ("seed", True, r"seed is True"),
        ("norm_eps", -1e-5, r"norm_eps is -1e-05; a number of at least 0"),
        ("corpus", "jft", r"corpus is 'jft'"),
        ("arch", {"depth": 7}, r"DEPTH is 7"),
        ("arch", "R-50", r"arch is 'R-50'"),
        ("schema", 4, r"card schema 4, this version of scaleprior reads 1 to 3"),
        ("norm", "GN", r"card says norm 'GN' but its arch says 'BN'"),
        ("depht", 50, r"unknown fields \['depht'\]"),
    ],
)
def test_wrong_cards_are_refused_with_field_and_file(field: str, value: object, message: str) -> None:
    text = json.dumps({**card().to_dict(), field: value})
    with pytest.raises(UserError, match=message):
        Card.from_json(text, source="w.safetensors")


def test_missing_contract_fields_and_broken_json() -> None:
    fields = card().to_dict()
    del fields["pixel_mean"]
    with pytest.raises(UserError, match=r"lacks \['pixel_mean'\]"):
        Card.from_json(json.dumps(fields))
    with pytest.raises(UserError, match=r"the card is not JSON"):
        Card.from_json("{")
    with pytest.raises(UserError, match=r"a card is an object, got list"):
        Card.from_json("[]")
